"""The cells of each type that are scored, and the passes over them."""

from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from cellfm.errors import ConfigError, DataError
from cellfm.genes import GeneTable, Vocabulary
from cellfm.nn.annotation import AnnotationHead
from cellfm.nn.encoder import CellFM
from cellfm.nn.heads import initialise_head
from cellfm.tl._annotator import Annotator
from cellfm.tl._genes.specific_scores import Attention, Labellings, attention_of_types
from cellfm.tl._markers import _Genes, _mean_attribution, _Scored, _scored

if TYPE_CHECKING:
    from numpy.typing import NDArray

Progress = Callable[[int, int], None]

N_MIXED = 20
"""Shuffled labellings under which each query asks cells of all types."""
LNCRNA, LNCRNA_TYPE = "lncRNA", "RNA, long non-coding"
"""Short name of the HGNC locus type, which is a part of the locus group non-coding RNA."""


class Passes:
    """Tells how many cells of all passes are done."""

    def __init__(self, progress: Progress | None, total: int) -> None:
        self.progress, self.total, self.before = progress, total, 0

    def __call__(self, done: int, n: int) -> None:
        if self.progress is not None:
            self.progress(self.before + done, self.total)
        self.before += n if done == n else 0


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Kinds:
    """Symbol and kind of each token; entry 0 is no gene."""

    symbol: "NDArray[np.object_]"
    group: "NDArray[np.object_]"
    type: "NDArray[np.object_]"

    @classmethod
    def of(cls, vocabulary: Vocabulary) -> "Kinds":
        known = {gene.hgnc_id: gene for gene in GeneTable.load().genes}
        genes = [known.get(hgnc_id) for hgnc_id in vocabulary.hgnc_ids]
        return cls(
            symbol=np.array(["", *vocabulary.symbols], object),
            group=np.array(["", *(gene.locus_group if gene else "" for gene in genes)], object),
            type=np.array(["", *(gene.locus_type if gene else "" for gene in genes)], object),
        )

    def are(self, locus_group: str | None) -> "NDArray[np.bool_]":
        """Return which tokens are of a locus group."""
        if locus_group is None:
            return np.ones(len(self.symbol), bool)
        if locus_group == LNCRNA:
            return self.type == LNCRNA_TYPE
        groups = sorted({gene.locus_group for gene in GeneTable.load().genes})
        if locus_group not in groups:
            msg = f"There is no locus group {locus_group!r}; it must be {LNCRNA!r} or one of HGNC: {', '.join(map(repr, groups))}. Choose one of these."
            raise ConfigError(msg)
        return self.group == locus_group


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Chosen:
    """The types that are looked at, and their cells."""

    types: "NDArray[np.int64]"
    """Classes of the annotator."""
    names: "NDArray[np.object_]"
    kind: "NDArray[np.int64]"
    """Place in `types` of the type of every cell; −1 for none."""
    rows: "NDArray[np.int64]"
    """Ascending rows that are scored."""
    notes: tuple[str, ...]

    @property
    def known(self) -> "NDArray[np.bool_]":
        """Which cells are of one of the types."""
        return self.kind >= 0

    @classmethod
    def draw(
        cls,
        code: "NDArray[np.int64]",
        names: tuple[str, ...],
        *,
        n_cells: int,
        min_cells: int,
        seed: int,
    ) -> "Chosen":
        """Take the types that have enough cells, and some cells of each."""
        size = np.bincount(code[code >= 0], minlength=len(names))
        least = max(min_cells, 2)
        types = np.flatnonzero(size >= least)
        small = [f"{names[i]} ({size[i]})" for i in np.flatnonzero((size > 0) & (size < least))]
        notes = (f"Left out, as they have fewer than {least} cells: {', '.join(small)}.",)
        if len(types) < 2:
            there = ", ".join(f"{names[i]} ({size[i]:,})" for i in np.flatnonzero(size)) or "none"
            msg = f"Types are compared, and {len(types)} of the annotator's has at least {least} cells; found {there}. Give more cells, or name the column of types by groupby=… (--groupby)."
            raise DataError(msg)
        place = np.full(len(names) + 1, -1)  # the last entry is that of code −1
        place[types] = np.arange(len(types))
        kind = place[code]
        rng = np.random.default_rng(seed)
        rows = [rng.permutation(np.flatnonzero(kind == i))[:n_cells] for i in range(len(types))]
        return cls(
            types=types,
            names=np.array(names, object)[types],
            kind=kind,
            rows=np.sort(np.concatenate(rows)),
            notes=notes if small else (),
        )


def attend(
    network: CellFM,
    head: AnnotationHead,
    genes: _Genes,
    chosen: Chosen,
    *,
    n_permutations: int,
    seed: int,
    progress: Progress,
) -> list[Attention]:
    """Score the cells by their types, which comes first, and file the same scores under shuffled ones; ask cells of all types by each query; and all by random queries."""
    device = next(head.parameters()).device
    random = deepcopy(head).cpu()
    initialise_head(random, torch.Generator().manual_seed(seed))
    rng = np.random.default_rng([seed, 1])
    kind = chosen.kind[chosen.rows]
    shuffled = np.stack([kind, *(rng.permutation(kind) for _ in range(n_permutations))])
    mixed = shuffled[1 : N_MIXED + 1]
    return attention_of_types(
        network,
        [
            Labellings(head=head, asked=np.broadcast_to(kind, shuffled.shape), filed=shuffled),
            Labellings(head=head, asked=mixed, filed=mixed),
            Labellings(head=random.to(device).eval(), asked=kind[None], filed=kind[None]),
        ],
        genes.cells,
        chosen.rows,
        types=chosen.types,
        n_tokens=genes.value.shape[1],
        progress=progress,
    )


def attributions(
    trained: Annotator, column: int, genes: _Genes, chosen: Chosen, *, progress: Progress
) -> "NDArray[np.float64]":
    """Return the mean attribution of each gene over the scored cells of each type, shape (type, token)."""
    module, scores = _scored(trained, column)
    scored = _Scored(module=module, scores=scores, method="gradient", n_steps=1)
    kind, parts, done = chosen.kind[chosen.rows], [], 0
    for place, one in enumerate(chosen.types.tolist()):
        rows = chosen.rows[kind == place]
        parts.append(_mean_attribution(scored, genes, rows, one))
        done += len(rows)
        progress(done, len(chosen.rows))
    return np.stack(parts)
