"""Small checkpoints and gene lists."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from cellfm.config.model import ModelConfig
from cellfm.weights.names import name_table
from cellfm.weights.protobuf_write import write

PARITY = Path(__file__).resolve().parents[2] / "data" / "parity"


@pytest.fixture(scope="session")
def parity() -> Path:
    """Folder of checkpoints written by MindSpore itself."""
    return PARITY


@pytest.fixture
def gene_list(tmp_path: Path) -> Callable[[int], Path]:
    """Write a gene list of n invented genes in the form that comes with the official weights."""

    def make(n_genes: int) -> Path:
        path = tmp_path / f"genes{n_genes}.csv"
        rows = [f"GENE{i},{n_genes - i}" for i in range(n_genes)]
        path.write_text(
            "\n".join(["HGNC_gene,h5_sample_frequency", *rows]) + "\n", encoding="utf-8"
        )
        return path

    return make


@pytest.fixture
def random_checkpoint(tmp_path: Path) -> Callable[..., tuple[Path, dict[str, np.ndarray]]]:
    """Write a checkpoint of random numbers for a network's shape."""

    def make(config: ModelConfig, *, dtype: str = "<f4", without: tuple[str, ...] = ()):
        generator = np.random.default_rng(0)
        arrays = {
            name.theirs: generator.standard_normal(name.their_shape).astype(dtype)
            for name in name_table(config)
            if name.theirs not in without
        }
        path = tmp_path / "random.ckpt"
        write(path, arrays.items())
        return path, arrays

    return make
