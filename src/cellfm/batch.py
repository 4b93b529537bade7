"""CellBatch: the only contract between data and network."""

from dataclasses import dataclass, fields, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class CellBatch:
    """Ragged batch of cells: no padding anywhere.

    Attributes
    ----------
    gene
        Vocabulary token of each expressed gene, at least 1.
    value
        ``log1p(count / depth × 10⁴)`` of each gene (Zeng et al. 2025, Methods).
    offsets
        Genes of cell *i* are ``offsets[i]:offsets[i + 1]``. Always on the CPU.
    depth
        ``log1p(S / 1000), log1p(T / 1000)``: observed and target total count of the cell.
    hidden
        Genes whose value the network must not see; pretraining only.
    scored
        Genes that enter the loss; pretraining only.
    target
        Their true value; pretraining only.
    absent
        For each scored gene another one that the cell does not express, 0 for none; pretraining with a detection term only.
    zero
        Genes put in although their count is zero (for the zero heads); their value embedding is a learned one.
    """

    gene: Int[Tensor, " token"]
    value: Float[Tensor, " token"]
    offsets: Int[Tensor, " boundary"]
    depth: Float[Tensor, "cell 2"]
    hidden: Bool[Tensor, " token"] | None = None
    scored: Bool[Tensor, " token"] | None = None
    target: Float[Tensor, " token"] | None = None
    absent: Int[Tensor, " token"] | None = None
    zero: Bool[Tensor, " token"] | None = None

    @property
    def n_cells(self) -> int:
        """Number of cells."""
        return self.depth.shape[0]

    @property
    def n_tokens(self) -> int:
        """Number of genes of all cells together."""
        return self.gene.shape[0]

    @property
    def lengths(self) -> list[int]:
        """Expressed genes of each cell."""
        return self.offsets.diff().tolist()

    def to(self, device: torch.device | str) -> "CellBatch":
        """Copy to a device; `offsets` stays on the CPU, where the cells are cut."""
        moved = {
            field.name: value.to(device, non_blocking=True)
            for field in fields(self)
            if field.name != "offsets" and (value := getattr(self, field.name)) is not None
        }
        return replace(self, **moved)

    def cells(self, start: int, stop: int) -> "CellBatch":
        """Return the cells ``start:stop`` as a batch of their own (views, no copy)."""
        first, last = int(self.offsets[start]), int(self.offsets[stop])
        cut = {
            field.name: value[first:last]
            for field in fields(self)
            if field.name not in ("offsets", "depth")
            and (value := getattr(self, field.name)) is not None
        }
        return replace(
            self,
            offsets=self.offsets[start : stop + 1] - first,
            depth=self.depth[start:stop],
            **cut,
        )
