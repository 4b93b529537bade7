"""What embedding a file takes on this machine, measured on a few of its cells."""

import time
from dataclasses import dataclass

import numpy as np
import torch

from cellfm.corpus.counts import Scale
from cellfm.corpus.rows import RowSource
from cellfm.genes import GeneMatch
from cellfm.tl._states import BLOCK, EmbedOptions, StateEncoder, as_model
from cellfm.train.throughput import memory_bytes

WARM_UP = 16
"""Cells that are embedded before the clock starts."""
TARGET_FACTOR = 2
"""Bytes of states are on disk twice while they are put into the target."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """Of ``cellfm embed`` with the usual options.

    Attributes
    ----------
    model
        Weights it was measured with.
    device
        Where.
    n_sample
        Cells that were embedded for it.
    cells_per_second
        For cells with as many genes as those of the whole file have on average.
    seconds
        For all cells, reading and loading the weights included.
    peak_memory
        Most bytes this process held, which did the same; 0 where the system does not tell.
    peak_device_memory
        Of an accelerator; 0 on a CPU.
    disk
        Bytes of the target and of what is written on the way.
    """

    model: str
    device: str
    n_sample: int
    cells_per_second: float
    seconds: float
    peak_memory: int
    peak_device_memory: int
    disk: int


def measure(
    rows: RowSource,
    match: GeneMatch,
    *,
    model: str | None,
    device: str | None,
    scale: Scale,
    genes_per_cell: float,
    n_sample: int,
    n_bytes: int,
) -> Cost:
    """Embed cells from the middle of a file as ``cellfm embed`` would, and scale up by genes.

    Parameters
    ----------
    rows
        The matrix.
    match
        Its genes.
    model
        Weights folder or name; None for those of the package.
    device
        Where to compute.
    scale
        What the values are.
    genes_per_cell
        Expressed genes of the vocabulary in a cell, on average over the file.
    n_sample
        Cells to embed, fewer where there are no more.
    n_bytes
        Size of the file.
    """
    began = time.perf_counter()
    pretrained = as_model(model, device)
    options = EmbedOptions(scale=scale, empty="nan")
    encoder = StateEncoder(pretrained, match, options, n_cells=rows.n_rows)
    loaded = time.perf_counter() - began
    start = max(0, (rows.n_rows - n_sample) // 2)
    stop = min(start + n_sample, rows.n_rows)
    encoder.encode(rows.read(start, min(start + WARM_UP, stop)), start)
    began, n_genes = time.perf_counter(), 0
    for first in range(start, stop, BLOCK):
        block = rows.read(first, min(first + BLOCK, stop))
        n_genes += int(np.count_nonzero(match.token[block.indices]))
        encoder.encode(block, first)
    seconds = time.perf_counter() - began
    # Work goes with the genes, not with the cells.
    a_cell = seconds / max(n_genes, 1) * max(genes_per_cell, 1.0)
    return Cost(
        model=str(model or "mini"),
        device=str(encoder.device),
        n_sample=stop - start,
        cells_per_second=1.0 / a_cell,
        seconds=loaded + rows.n_rows * a_cell,
        peak_memory=memory_bytes(torch.device("cpu")),
        peak_device_memory=memory_bytes(encoder.device) if encoder.device.type == "cuda" else 0,
        disk=n_bytes + TARGET_FACTOR * 4 * encoder.dim * rows.n_rows,
    )
