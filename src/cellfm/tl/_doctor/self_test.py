"""Whether cells can be embedded on a machine."""

import sys
import time
from typing import TYPE_CHECKING

import numpy as np
import torch

from cellfm.errors import CellFMError
from cellfm.tl._device import choose_device
from cellfm.tl._doctor.finding import Finding
from cellfm.weights.folder import MINI

if TYPE_CHECKING:
    from numpy.typing import NDArray

N_CELLS = 32
TOLERANCE = 1e-4
"""Largest difference between a cell embedded in one order and in the reverse, beside the largest entry of a state."""


def self_test(device: str | None) -> tuple[float | None, Finding]:
    """Embed made-up cells twice, in both orders, and compare; return the seconds of the first.

    Parameters
    ----------
    device
        Device to compute on; a GPU if there is one.
    """
    try:
        device = choose_device(device)
        first, seconds = _embed_made_up(device, reverse=False)
        again, _ = _embed_made_up(device, reverse=True)
    except (CellFMError, OSError, RuntimeError, ImportError) as error:
        said = str(error).partition("\n")[0]
        text = f"a few made-up cells cannot be embedded by {MINI} on {device}: {type(error).__name__}: {said}"
        todo = (
            "try --device cpu; if that fails as well, install cellfm again in a fresh environment"
        )
        return None, Finding(topic="self-test", level="problem", text=text, todo=todo)
    apart = float(np.abs(first - again[::-1]).max())
    if not np.isfinite(first).all() or apart > TOLERANCE * float(np.abs(first).max()):
        text = f"made-up cells embedded by {MINI} on {device} are not what they must be (largest difference between two orders {apart:.2g})"
        todo = f"use --device cpu, and report it with these versions: torch {torch.__version__}, {sys.platform}"
        return None, Finding(topic="self-test", level="problem", text=text, todo=todo)
    text = (
        f"{N_CELLS} made-up cells embedded by {MINI} on {device} in {seconds:.1f} s, weights loaded"
    )
    return seconds, Finding(topic="self-test", text=text)


def _embed_made_up(device: str, *, reverse: bool) -> "tuple[NDArray[np.float32], float]":
    """Return the states of made-up cells, and the seconds that loading and embedding took."""
    import pandas as pd
    from anndata import AnnData
    from scipy import sparse

    from cellfm.tl._embed import embed
    from cellfm.tl._states import as_model

    began = time.perf_counter()
    model = as_model(None, device)
    symbols = model.vocabulary.symbols[:500]
    counts = np.random.default_rng(0).poisson(1.0, (N_CELLS, len(symbols))).astype(np.float32)
    names = pd.DataFrame(index=pd.Index(symbols))
    cells = pd.DataFrame(index=pd.Index([f"cell{i}" for i in range(N_CELLS)]))
    made_up = AnnData(sparse.csr_matrix(counts[::-1] if reverse else counts), obs=cells, var=names)
    embed(made_up, model)
    return np.asarray(made_up.obsm["X_cellfm"]), time.perf_counter() - began
