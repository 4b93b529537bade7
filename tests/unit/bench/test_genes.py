"""Tasks on genes: what they do, and what their modules know."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tests.unit.bench.toy import toy_dataset

from cellfm.bench.datasets import BUILT_IN, read_dataset
from cellfm.bench.gene_cells import GeneDataset, simulated_genes
from cellfm.bench.registry import load_task
from cellfm.bench.result import ResultTable
from cellfm.bench.run import RunOptions, run_bench
from cellfm.bench.task import Answer
from cellfm.bench.tasks.gene_function import TASK as FUNCTION
from cellfm.bench.tasks.gene_programs import TASK as PROGRAMS
from cellfm.errors import DataError, EvidenceError
from cellfm.genes import Vocabulary
from cellfm.genes.families import family
from cellfm.weights import folder as weights
from cellfm.weights.folder import Pretrained

pytest.importorskip("scanpy")
pytest.importorskip("igraph")


@pytest.fixture(scope="module")
def dataset() -> GeneDataset:
    return simulated_genes()


@pytest.fixture(scope="module")
def model(dataset: GeneDataset) -> Pretrained:
    """Random weights that know all genes but thirty."""
    return weights.new("debug", Vocabulary.from_symbols(list(dataset.cells.var_names[:270])))


def test_views_hold_no_answer(dataset: GeneDataset) -> None:
    case = next(FUNCTION.cases(dataset, seed=0))
    (view,) = FUNCTION.views(case)
    assert not hasattr(view, "flags")
    assert not isinstance(view.dataset, GeneDataset)
    assert view.dataset.hash == dataset.hash
    assert list(view.adata.obs) == []
    (view,) = PROGRAMS.views(next(PROGRAMS.cases(dataset, seed=0)))
    assert not hasattr(view, "sets")


def test_families_stay_in_one_fold(dataset: GeneDataset) -> None:
    cases = {case.split: case for case in FUNCTION.cases(dataset, seed=0)}
    case = cases["families"]
    fold_of: dict[str, set[int]] = {}
    for place, fold in zip(case.labelled, case.fold_of, strict=True):
        fold_of.setdefault(family(case.genes[place]), set()).add(int(fold))
    assert len(fold_of) < len(case.fold_of)
    assert all(len(folds) == 1 for folds in fold_of.values())
    assert cases["genes"].split_hash != case.split_hash


def test_an_oracle_wins_and_unknown_genes_are_neither_good_nor_bad(dataset: GeneDataset) -> None:
    case = next(FUNCTION.cases(dataset, seed=0))
    best = np.zeros((len(case.genes), case.flags.shape[1]), np.float32)
    best[case.labelled] = case.flags
    found = FUNCTION.score(case, [Answer(arrays={"vectors": best})]).scores
    assert found["auroc"].value > 0.99
    assert found["fmax"].value > 0.9
    assert (found["auroc"].unit, found["auroc"].n_units) == ("gene set", 12)
    best[::2] = np.nan
    outcome = FUNCTION.score(case, [Answer(arrays={"vectors": best})])
    assert outcome.scores["auroc"].value < found["auroc"].value - 0.1
    assert "without a vector" in outcome.notes[-1]
    with pytest.raises(DataError, match="must be vectors of"):
        FUNCTION.score(case, [Answer(arrays={"vectors": best[:5]})])
    with pytest.raises(DataError, match="knows none of"):
        FUNCTION.score(case, [Answer(arrays={"vectors": np.full_like(best, np.nan)})])


def test_modules_of_the_simulation_are_found_by_coexpression_alone(
    dataset: GeneDataset, model: Pretrained, tmp_path: Path
) -> None:
    """All methods run, with their controls; no result can be had without these."""
    run = run_bench([FUNCTION, PROGRAMS], [dataset], model, tmp_path, options=RunOptions())
    assert (run.held_back, run.refused) == ((), ())
    rows = list(run.table)
    assert not [row.method for row in rows if row.failed]
    value = {(row.task, row.split, row.metric, row.method): row.value for row in rows}
    assert {row.split for row in rows} == {"genes", "families", "all genes"}
    for split in ("genes", "families"):
        score = {name: value["gene_function", split, "auroc", name] for name in ("coexpression-svd", "pca-loadings", "random-vectors", "random-weights", "shuffled-labels", "cellfm")}  # fmt: skip
        # Half of the sets are of chance.
        assert min(score["coexpression-svd"], score["pca-loadings"]) > 0.65
        assert all(abs(score[name] - 0.5) < 0.12 for name in ("random-vectors", "random-weights", "shuffled-labels", "cellfm"))  # fmt: skip
    sets = {row.method: row.value for row in rows if row.task == "gene_programs"}
    assert sets["coexpression-svd"] > 0.35
    assert max(sets[name] for name in ("random-vectors", "random-weights", "shuffled-labels")) < 0.1
    for role in ("pca", "negative", "random_weights", "classical", "shuffled_labels"):
        with pytest.raises(EvidenceError, match=f"have no .*{role}"):
            ResultTable([row for row in rows if role not in row.roles])


def test_tasks_are_registered_and_refuse(dataset: GeneDataset, tmp_path: Path) -> None:
    assert load_task("gene_function") is FUNCTION
    assert load_task("gene_programs") is PROGRAMS
    assert isinstance(BUILT_IN["simulated-genes"](), GeneDataset)
    assert "gene_sets" in str(FUNCTION.refuses(toy_dataset()))
    assert (
        PROGRAMS.refuses(replace(dataset, scale="log1p")) == "the controls are made of raw counts"
    )
    mouse = replace(dataset, set_maker=lambda: {"a": ("Actb", "Gapdh"), "b": ("Xist", "Tsix")})
    assert "0 of its gene sets have 10 expressed genes" in str(FUNCTION.refuses(mouse))
    path = tmp_path / "own.yaml"
    path.write_text("name: own\npath: cells.h5ad\ngene_sets: sets.gmt\n")
    own = read_dataset(path)
    assert isinstance(own, GeneDataset)
    assert own.gene_sets == (tmp_path / "sets.gmt").resolve()
    with pytest.raises(DataError, match="There is no file"):
        own.sets  # noqa: B018 - reading is what fails
