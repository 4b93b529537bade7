"""Runs in processes of their own: two are one, shares are put together anew, kills and signals lose nothing that was saved."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import anndata
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from tests.e2e import simulate

ROOT = Path(__file__).resolve().parents[2]
WORKER = Path(__file__).with_name("train_worker.py")
LANES = {"lanes": 4}
# Sums over two processes are added in another order.
SAME = 1e-6
TRAVEL = 20 * 3e-3
"""How far Adam may move a weight in all: a learning rate a step."""
POISON = (5, 9)
"""Steps that are skipped."""
RANDOM_KILLS = int(os.environ.get("CELLFM_KILLS", "2"))
"""Random kill points of the property below; the benchmark takes 20."""


class Done(NamedTuple):
    code: int
    out: str
    err: str


def run(
    folder: Path, *words: object, n_processes: int = 0, parallel: str = "ddp", **data: object
) -> Done:
    """Train in `n_processes` under torchrun, or in one without it."""
    config = {"data": {**LANES, **data}, "run": {"parallel": parallel}}
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", n_processes]
    poison = ("--poison", *POISON)
    job = [WORKER, folder, json.dumps(config), *words, *poison]
    return start(*(torchrun if n_processes else []), *job)


def start(*command: object) -> Done:
    """Run Python with these words."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, *map(str, command)],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    return Done(done.returncode, done.stdout, done.stderr)


def train(folder: Path, *words: object, **options: object) -> Path:
    done = run(folder, *words, **options)
    assert done.code == 0, done.err
    # The first process prints, and no other.
    if "--stop-after" not in words:
        assert done.out == "20 2\n"
    return folder


def lines(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def assert_same(one: Path, other: Path, tolerance: float = SAME) -> None:
    """Same losses on every line and same weights."""
    for left, right in zip(lines(one), lines(other), strict=True):
        assert left["step"] == right["step"]
        for name in (name for name in left if name.endswith("loss") or name == "cells"):
            assert right[name] == pytest.approx(left[name], rel=tolerance), (left["step"], name)
    weights, others = (load_file(folder / "whole.safetensors") for folder in (one, other))
    assert weights.keys() == others.keys()
    for name, tensor in weights.items():
        error = float((tensor.double() - others[name].double()).norm())
        # A weight that starts at zero and comes back to it is no smaller than the way it may have gone.
        size = max(float(tensor.double().norm()), TRAVEL * tensor.numel() ** 0.5)
        assert error <= tolerance * size, name


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of one process."""
    return train(tmp_path_factory.mktemp("runs") / "straight")


@pytest.mark.slow
@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_two_processes_are_one(straight: Path, tmp_path: Path, parallel: str) -> None:
    """Two of the steps meet a value that is not a number, in one of the processes: both leave their weights alone."""
    folder = train(tmp_path / "two", n_processes=2, parallel=parallel)
    shards = 2 if parallel == "fsdp" else 1
    for checkpoint in (folder / "checkpoints").iterdir():
        assert len(list(checkpoint.glob("*.safetensors"))) == shards
    assert_same(straight, folder)


DETECTING = {
    "model": {"zero_heads": False, "detection_head": True},
    "objective": {"detection": 0.7},
    "data": {
        "lanes": 4,
        "token_budget": 400,
        "genes_per_cell": 32,
        "gene_start": "pca",
        "thin": True,
    },
}


def train_on_counts(folder: Path, counts: Path, *, n_processes: int, parallel: str = "ddp") -> Path:
    settings = {**DETECTING, "run": {"parallel": parallel}}
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", n_processes]
    job = [WORKER, folder, json.dumps(settings), "--counts", counts]
    done = start(*(torchrun if n_processes else []), *job)
    assert done.code == 0, done.err
    assert done.out == "20 0\n"
    return folder


@pytest.mark.slow
def test_two_processes_are_one_on_counts(tmp_path: Path) -> None:
    """Detection, a part of each cell's genes and a gene table from a PCA that only the first process fits."""
    path = simulate.counts(tmp_path / "counts.h5ad", n_cells=300, n_genes=120)
    genes = list(anndata.read_h5ad(path).var_names)[: -simulate.N_STRANGE]
    path.with_suffix(".genes.json").write_text(json.dumps(genes))
    alone = train_on_counts(tmp_path / "alone", path, n_processes=0)
    assert load_file(alone / "whole.safetensors")["cell_zero_decoder.weight"].any()
    for parallel in ("ddp", "fsdp"):
        two = train_on_counts(tmp_path / parallel, path, n_processes=2, parallel=parallel)
        assert_same(alone, two)


@pytest.mark.slow
def test_any_number_of_processes_goes_on(straight: Path, tmp_path: Path) -> None:
    """One begins, two copies go on, two shares until one is told to end, one ends."""
    folder = tmp_path / "run"
    train(folder, "--stop-after", 3)
    train(folder, "--stop-after", 3, n_processes=2, parallel="ddp")
    hit = ("--hit-at", 8, "--hit-by", "SIGTERM", "--hit-rank", 1)
    done = run(folder, *hit, n_processes=2, parallel="fsdp")
    assert done.code != 0
    assert "exitcode  : 143" in done.err
    assert not done.out
    assert sorted(path.name for path in (folder / "checkpoints").iterdir())[-1] == "step-00000008"
    train(folder)
    assert_same(straight, folder)


def test_more_processes_than_lanes(tmp_path: Path) -> None:
    done = run(tmp_path / "run", n_processes=2, lanes=1)
    assert done.code != 0
    assert "2 processes share a step of data.lanes=1 micro-batches" in done.err
    assert not (tmp_path / "run").exists()


def killed_and_resumed(folder: Path, *steps: int) -> None:
    """Kill a run after each of these steps without warning, then let it end."""
    for step in steps:
        done = run(folder, "--hit-at", step, "--hit-by", "SIGKILL")
        assert done.code == -9, done.err
        saved = sorted(path.name for path in (folder / "checkpoints").glob("step-*"))
        # All but the checkpoint that was being written is there.
        assert int(saved[-1][5:]) >= step - 2 * 6 if saved else step < 2 * 6
    train(folder)


def bits(folder: Path) -> list[dict[str, np.ndarray]]:
    newest = max((folder / "checkpoints").iterdir())
    files = [*newest.glob("*.safetensors"), folder / "whole.safetensors"]
    return [{name: x.numpy() for name, x in load_file(file).items()} for file in files]


def assert_same_bits(one: Path, other: Path) -> None:
    for left, right in zip(bits(one), bits(other), strict=True):
        assert left.keys() == right.keys()
        for name, array in left.items():
            assert array.tobytes() == right[name].tobytes(), name
    assert_same(one, other, tolerance=0.0)


@settings(max_examples=RANDOM_KILLS, deadline=None, derandomize=True)
@given(steps=st.lists(st.integers(1, 19), min_size=1, max_size=2, unique=True).map(sorted))
def test_kills_change_no_bit(
    straight: Path, tmp_path_factory: pytest.TempPathFactory, steps: list[int]
) -> None:
    folder = tmp_path_factory.mktemp("killed") / "run"
    killed_and_resumed(folder, *steps)
    assert_same_bits(straight, folder)
