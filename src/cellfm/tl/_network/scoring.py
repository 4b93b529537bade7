"""Which cells a network is of, and the scores of pairs by each method."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

from cellfm.errors import ConfigError
from cellfm.genes import Vocabulary
from cellfm.tl._genes.embeddings import _draw_cells
from cellfm.tl._network.genes import NetworkCells, read_cells
from cellfm.tl._network.pairs import PairScores
from cellfm.tl._states import EmbedOptions
from cellfm.weights.folder import Pretrained

if TYPE_CHECKING:
    import numpy as np
    from anndata import AnnData
    from numpy.typing import NDArray

Method = Literal["retention", "knockout", "gradient", "embedding", "contextual"]
Progress = Callable[[int, int], None]
N_CELLS = {
    "retention": 2000,
    "knockout": 100,
    "gradient": 200,
    "embedding": 2000,
    "contextual": 2000,
}
"""Cells by default: knock-outs and gradients take a pass of the network for each source, or each target, of a cell."""
LEAST_TOGETHER = 10
"""Cells that must express both genes for a score that is a mean over such cells: of fewer, means are extreme by chance and would come first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """Which cells a network is of, and by which method.

    Attributes
    ----------
    method, groupby, group, n_cells, min_cells, seed
        As in `gene_network`.
    """

    method: str
    groupby: str | None
    group: str | None
    n_cells: int | None
    min_cells: int
    seed: int

    def __post_init__(self) -> None:
        if self.method not in get_args(Method):
            msg = f"method is {self.method!r}; it must be one of {', '.join(map(repr, get_args(Method)))}. Choose one of these."
            raise ConfigError(msg)
        if (self.group is None) != (self.groupby is None):
            given, other = ("group", "groupby") if self.groupby is None else ("groupby", "group")
            msg = f"{given}={getattr(self, given)!r} was given without {other}; a network is of the cells of one group: say both (--groupby, --group), or neither."
            raise ConfigError(msg)
        if min(self.min_cells, 1 if self.n_cells is None else self.n_cells) < 1:
            msg = f"n_cells is {self.n_cells} and min_cells {self.min_cells}; both must be at least 1. Give a number in that range."
            raise ConfigError(msg)

    @property
    def described(self) -> str:
        """The cells in words."""
        return "all cells" if self.group is None else f"{self.group} ({self.groupby})"

    @property
    def most_cells(self) -> int:
        """Cells that are drawn at most."""
        return N_CELLS[self.method] if self.n_cells is None else self.n_cells

    def read(self, adata: "AnnData", vocabulary: Vocabulary, options: EmbedOptions) -> NetworkCells:
        """Read the cells.

        Parameters
        ----------
        adata
            Cells × genes.
        vocabulary
            Of the model.
        options
            Where the counts are.
        """
        drawn = _draw_cells(
            adata.obs, groupby=self.groupby, group=self.group, n_cells=self.most_cells, seed=self.seed
        )  # fmt: skip
        (rows,) = drawn.values()
        return read_cells(adata, rows, vocabulary, options, min_cells=self.min_cells)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Scored:
    """What a method gives.

    Attributes
    ----------
    scores
        Of the pairs.
    effect
        With its sign, shape (source, target), positive where the source raises the prediction of the target; None for methods without a direction of the effect.
    """

    scores: PairScores
    effect: "NDArray[np.float32] | None"


def score_pairs(
    model: Pretrained,
    cells: NetworkCells,
    sources: "NDArray[np.int64]",
    targets: "NDArray[np.int64]",
    *,
    method: str,
    by_head: bool = False,
    least: int = LEAST_TOGETHER,
    progress: Progress | None = None,
) -> Scored:
    """Score pairs by a method of the model.

    Parameters
    ----------
    model
        Weights.
    cells
        Counts.
    sources, targets
        Tokens.
    method
        Name.
    by_head
        Also keep the scores of the heads; for a method that has any.
    least
        Cells that must express both genes for a score that is a mean over such cells.
    progress
        Called with (done, in all).

    Raises
    ------
    ConfigError
        Heads of a method without them.
    """
    if by_head and method != "retention":
        msg = f"Heads were asked for, and method={method!r} has none. Say method='retention', or leave them out."
        raise ConfigError(msg)
    from cellfm.tl._network import embedding, gradient, knockout, retention

    effect = None
    network, counts = model, cells.cells
    if method == "retention":
        scores = retention.retention_scores(
            network, counts, sources, targets, by_head=by_head, progress=progress
        )
    elif method == "knockout":
        scores, effect = knockout.knockout_effects(
            network, counts, sources, targets, n_cells=None, progress=progress
        )
    elif method == "gradient":
        scores, effect = gradient.gradient_effects(
            network, counts, sources, targets, n_cells=None, progress=progress
        )
    else:
        inside = counts if method == "contextual" else None
        scores = embedding.embedding_scores(
            network, sources, targets, cells=inside, progress=progress
        )
    return Scored(scores=scores.seen_in(least), effect=effect)
