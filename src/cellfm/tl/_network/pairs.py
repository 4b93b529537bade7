"""Scores of ordered pairs of genes, source → target: what every method of a network returns."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from cellfm.errors import ConfigError

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PairScores:
    """How strongly each source bears on each target, by one method.

    Attributes
    ----------
    sources, targets
        Symbols, each at most once.
    score
        (source, target); larger means a stronger tie. NaN where the pair was never seen together, and for a gene and itself.
    n_cells
        (source, target); cells in which the pair was scored.
    method
        Name of the method, as printed beside its controls.
    heads
        Names of the parts whose mean `score` is (``"layer 1 head 0"``); empty for a method without parts.
    by_head
        (head, source, target), the scores of the parts, where they were asked for.
    """

    sources: "NDArray[np.object_]"
    targets: "NDArray[np.object_]"
    score: "NDArray[np.float32]"
    n_cells: "NDArray[np.int32]"
    method: str
    heads: tuple[str, ...] = ()
    by_head: "NDArray[np.float32] | None" = None

    def of_heads(self, heads: Sequence[str]) -> "PairScores":
        """Return the mean of some parts instead of all.

        Parameters
        ----------
        heads
            Their names.

        Raises
        ------
        ConfigError
            There are no such parts, or their scores were not kept.
        """
        if unknown := [name for name in heads if name not in self.heads]:
            msg = f"There is no head {unknown[0]!r}; {self.method} has {', '.join(self.heads) or 'none'}. Name one of these."
            raise ConfigError(msg)
        if self.by_head is None or not heads:
            msg = f"Heads of {self.method} were asked for, {len(heads)} of them; expected at least one, of scores by_head=True. Give a number in that range."
            raise ConfigError(msg)
        places = [self.heads.index(name) for name in heads]
        score = self.by_head[places].mean(axis=0)
        return replace(self, score=score, heads=tuple(heads), by_head=self.by_head[places])

    def seen_in(self, least: int) -> "PairScores":
        """Return the scores without those of pairs that were seen, but in fewer cells.

        Parameters
        ----------
        least
            Cells.
        """
        few = (self.n_cells > 0) & (self.n_cells < least)
        score = np.where(few, np.float32(np.nan), self.score)
        if self.by_head is None:
            return replace(self, score=score)
        return replace(self, score=score, by_head=np.where(few, np.float32(np.nan), self.by_head))

    def take(
        self, sources: "NDArray[np.object_]", targets: "NDArray[np.object_]"
    ) -> "NDArray[np.float32]":
        """Return the scores of some sources and targets, shape (source, target).

        Parameters
        ----------
        sources, targets
            Symbols that are there.
        """
        return _part(self.score, self, sources, targets)

    def take_heads(
        self, sources: "NDArray[np.object_]", targets: "NDArray[np.object_]"
    ) -> "NDArray[np.float32]":
        """Return the scores of the parts, shape (head, source, target).

        Parameters
        ----------
        sources, targets
            Symbols that are there.
        """
        assert self.by_head is not None  # the caller asked for them
        return _part(self.by_head, self, sources, targets)


def _part(
    scores: "NDArray[np.float32]",
    of: PairScores,
    sources: "NDArray[np.object_]",
    targets: "NDArray[np.object_]",
) -> "NDArray[np.float32]":
    row = {name: place for place, name in enumerate(of.sources.tolist())}
    column = {name: place for place, name in enumerate(of.targets.tolist())}
    rows = [row[name] for name in sources.tolist()]
    return scores[..., rows, :][..., [column[name] for name in targets.tolist()]]
