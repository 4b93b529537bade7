"""Fixtures of the original MindSpore model: networks through our own import, inputs as ragged batches."""

from pathlib import Path

import numpy as np
import torch

from cellfm.batch import CellBatch
from cellfm.nn import CellFM
from cellfm.weights.folder import load
from cellfm.weights.mindspore import import_checkpoint
from cellfm.weights.names import name_table

FOLDER = Path(__file__).resolve().parents[1] / "data" / "parity"
HEADS = {"tiny_cellfm": 4, "tiny_st": 2, "tiny_lora": 2}
N_GENES = {"tiny_cellfm": 100, "tiny_st": 60, "tiny_lora": 60}


def numbers(name: str) -> dict[str, np.ndarray]:
    """Everything the original printed."""
    with np.load(FOLDER / f"{name}.npz") as file:
        return {key: file[key] for key in file.files}


def imported(name: str, folder: Path) -> CellFM:
    """Import a checkpoint as a user does, and load it."""
    genes = folder / "genes.csv"
    genes.write_text("symbol\n" + "\n".join(f"GENE{i + 1}" for i in range(N_GENES[name])) + "\n")
    import_checkpoint(FOLDER / f"{name}.ckpt", genes, folder / name, n_heads=HEADS[name])
    return load(folder / name).network.eval()  # the fixtures were made without dropout


def their_names(network: CellFM) -> dict[str, str]:
    """Official name of each of our parameters."""
    return {name.ours: name.theirs for name in name_table(network.config)}


def ragged(found: dict[str, np.ndarray], *, masked: bool = True) -> tuple[np.ndarray, CellBatch]:
    """Return which padded positions are genes, and the batch without the others."""
    gene, value, scored = found["in/nonz_gene"], found["in/raw_nzdata"], found["in/mask_gene"]
    seen = found.get("in/masked_nzdata", found.get("in/dw_nzdata"))
    valid = gene > 0
    depth = found.get("in/ST_feat", np.zeros((len(gene), 2), np.float32))
    batch = CellBatch(
        gene=torch.from_numpy(gene[valid]).long(),
        value=torch.from_numpy((seen[..., 1] if masked else value)[valid]),
        offsets=torch.from_numpy(np.concatenate([[0], valid.sum(1).cumsum()])),
        depth=torch.from_numpy(depth),
        hidden=torch.from_numpy(seen[..., 0][valid] == 0) if masked else None,
        scored=torch.from_numpy(scored[valid] == 1) if masked else None,
        target=torch.from_numpy(value[valid]) if masked else None,
    )
    return valid, batch
