"""Tuned networks as methods of the annotation task."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from anndata import AnnData
from tests.unit.bench.toy import toy_cells, toy_dataset, toy_model

from cellfm.bench.methods.tuned import METHODS, Tuned, parts_of
from cellfm.bench.states import States
from cellfm.bench.task import Context
from cellfm.bench.tasks.annotation import TASK
from cellfm.corpus.split import TEST, TRAIN, VALIDATION
from cellfm.train.finetune import TuneConfig

QUICK = TuneConfig(n_epochs=8, patience=8, lr=3e-3, lora_lr=1e-2, head_lr=1e-2, token_budget=200)


def plain_cells() -> AnnData:
    """Cells whose types are plain to see, so that a small random network learns them."""
    adata = toy_cells(180)
    counts = adata.X.toarray()
    adata.X = np.where(counts > 6, 10 * counts, counts).astype(np.float32)
    return adata


@pytest.fixture
def context(tmp_path: Path) -> Context:
    return Context(model=toy_model(), states=States(tmp_path), work=tmp_path)


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
def test_types_are_learnt_without_the_test_labels(method, context: Context) -> None:
    dataset = replace(toy_dataset(), maker=plain_cells)
    (case,) = TASK.cases(dataset, seed=0)
    view = TASK.views(case)[0]
    config = replace(QUICK, n_epochs=24) if method.run.from_scratch else QUICK
    answer = replace(method.run, config=config)(view, context).arrays["probability"]
    assert answer.shape == (180, 3)
    np.testing.assert_allclose(answer.sum(axis=1), 1, rtol=1e-5)
    tested = view.part == TEST
    assert (answer[tested].argmax(axis=1) == case.code[tested]).mean() > 0.8


def test_a_type_without_training_cells_has_no_probability(context: Context) -> None:
    (case,) = TASK.cases(toy_dataset(), seed=0)
    view = TASK.views(case)[0]
    view = replace(view, labels=np.where(view.labels == "NK", "", view.labels))
    answer = Tuned(strength="lora", config=replace(QUICK, n_epochs=1))(view, context)
    assert (answer.arrays["probability"][:, 1] == 0).all()


def test_cells_to_stop_on_are_known_ones() -> None:
    (case,) = TASK.cases(toy_dataset(), seed=0)
    view = TASK.views(case)[0]
    assert (parts_of(view)[view.known] == view.part[view.known]).all()
    bare = replace(view, part=np.where(view.part == VALIDATION, TRAIN, view.part).astype(np.int8))
    parts = parts_of(bare)
    assert (parts == VALIDATION).any()
    assert (parts[~bare.known] == TEST).all()
    assert set(bare.labels[parts == TRAIN]) == {"B", "NK", "T"}
