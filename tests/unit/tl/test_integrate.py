"""Batch integration on AnnData: what is written, what is left alone, what is refused."""

from dataclasses import replace
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest
import torch
from anndata import AnnData
from scipy import sparse

from cellfm import tl
from cellfm.corpus.cells import InMemoryCells
from cellfm.errors import ConfigError, CountsError, DataError, OutputExistsError, WeightsError
from cellfm.nn import CellFM, initialise
from cellfm.tl._integrate_batch import Batches, batches_of, centred
from cellfm.tl._integrate_batches import MaskedBatches, MaskOptions, masked_batch
from cellfm.tl._integrate_tune import IntegrateTuning, finetune_on_batches, validation_rows
from cellfm.weights.folder import Pretrained

KEY = "X_cellfm_integrated"


@pytest.fixture
def two_batches(adata: AnnData) -> AnnData:
    """60 cells in batches of 40 and 20; the second has more of one gene."""
    cells = adata[:60].copy()
    cells.obs["run"] = ["a"] * 40 + ["b"] * 20
    counts = cells.X.toarray()
    counts[40:, 2] += 20
    cells.X = sparse.csr_matrix(counts)
    return cells


def integrated(cells: AnnData, model: Pretrained, **changes: object) -> np.ndarray:
    tl.integrate(cells, model, batch_key="run", overwrite=True, **changes)  # type: ignore[arg-type]
    return np.asarray(cells.obsm[KEY])


def test_frozen_is_what_embed_gives(two_batches: AnnData, model: Pretrained) -> None:
    tl.embed(two_batches, model)
    states = integrated(two_batches, model, method="frozen")
    np.testing.assert_array_equal(states, two_batches.obsm["X_cellfm"])


def test_centred_batches_have_one_mean(two_batches: AnnData, model: Pretrained) -> None:
    frozen = integrated(two_batches, model, method="frozen")
    states = integrated(two_batches, model, method="centre")
    rows = two_batches.obs["run"].to_numpy() == "a"
    assert np.abs(frozen[rows].mean(0) - frozen[~rows].mean(0)).max() > 1e-2
    np.testing.assert_allclose(states[rows].mean(0), frozen.mean(0), atol=1e-5)
    np.testing.assert_allclose(states[~rows].mean(0), frozen.mean(0), atol=1e-5)
    # within a batch nothing moves against each other
    np.testing.assert_allclose(
        states[rows] - states[rows][0], frozen[rows] - frozen[rows][0], atol=1e-5
    )


def test_centring_does_not_depend_on_order_or_names(rng: np.random.Generator) -> None:
    states = rng.normal(size=(30, 4)).astype(np.float32)
    code = rng.integers(0, 3, 30)
    order = rng.permutation(30)
    names = ("a", "b", "c")
    straight = centred(states, Batches(names=names, code=code))
    shuffled = centred(states[order], Batches(names=names, code=code[order]))
    np.testing.assert_allclose(shuffled, straight[order], atol=1e-6)
    renamed = centred(states, Batches(names=names, code=2 - code))
    np.testing.assert_allclose(renamed, straight, atol=1e-6)


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def test_finetuning_writes_states_and_its_history(two_batches: AnnData, model: Pretrained) -> None:
    before, told = two_batches.copy(), []
    states = integrated(
        two_batches,
        model,
        n_epochs=2,
        progress=lambda stage, done, total: told.append((stage, done, total)),
    )
    assert states.shape == (60, 16)
    assert states.dtype == np.float32
    assert np.isfinite(states).all()
    record = two_batches.uns["cellfm"][KEY]
    assert record["weights_hash"] == model.hash
    assert record["method"] == "finetune"
    assert record["batch_key"] == "run"
    assert dict(zip(record["batches"], record["batch_sizes"], strict=True)) == {"a": 40, "b": 20}
    assert len(record["finetuning"]["validation"]) == 2
    assert record["finetuning"]["n_validation_cells"] == 6
    assert record["tuning"]["n_epochs"] == 2
    assert [stage for stage, *_ in told][:2] == ["fine-tuning"] * 2
    assert told[1] == ("fine-tuning", 2, 2)
    assert told[-1] == ("embedding", 60, 60)
    # nothing else has changed
    assert (two_batches.X != before.X).nnz == 0
    pd.testing.assert_frame_equal(two_batches.obs, before.obs)
    assert set(two_batches.obsm) == {KEY}


def test_finetuning_is_repeatable_and_leaves_the_model(
    two_batches: AnnData, model: Pretrained
) -> None:
    kept = {name: value.clone() for name, value in model.network.state_dict().items()}
    state = torch.get_rng_state()
    first = integrated(two_batches, model, n_epochs=3)
    again = integrated(two_batches, model, n_epochs=3)
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, integrated(two_batches, model, n_epochs=3, seed=1))
    assert torch.equal(state, torch.get_rng_state())
    for name, value in model.network.state_dict().items():
        assert torch.equal(value, kept[name])
    assert all(parameter.grad is None for parameter in model.network.parameters())


@pytest.mark.parametrize(
    "changes",
    [
        {"adversarial": 1.0, "conditional": False, "ecs": 1.0},
        {"pool": "mean"},
        {"pool": "both"},
    ],
)
def test_options_give_other_states(
    two_batches: AnnData, model: Pretrained, changes: dict[str, object]
) -> None:
    usual = integrated(two_batches, model, n_epochs=3)
    other = integrated(two_batches, model, n_epochs=3, **changes)
    assert other.shape[1] == (32 if changes.get("pool") == "both" else 16)
    assert np.isfinite(other).all()
    assert other.shape != usual.shape or not np.array_equal(other, usual)


def test_finetuning_lowers_the_masked_loss_of_cells_it_has_not_seen(
    two_batches: AnnData, model: Pretrained
) -> None:
    cells = _cells(two_batches)
    batches = batches_of(two_batches.obs, "run")
    tuning = IntegrateTuning(
        n_epochs=6, lr=3e-3, mask=MaskOptions(n_expressed=12, n_zero=4), token_budget=200
    )
    tuned = finetune_on_batches(model, cells, batches, tuning)
    assert tuned.result.best is not None
    assert tuned.result.best < 0.8 * tuned.result.start
    assert tuned.result.best == min(record.validation or 9.0 for record in tuned.result.history)


def test_validation_takes_some_of_every_batch(rng: np.random.Generator) -> None:
    batches = Batches(names=("a", "b", "c"), code=np.repeat([0, 1, 2], [50, 10, 2]))
    rows = validation_rows(batches, seed=0)
    assert np.bincount(batches.code[rows]).tolist() == [5, 1, 1]
    assert not np.array_equal(rows, validation_rows(batches, seed=1))


# -- masked cells with zero genes -----------------------------------------------------------------------------------------


def _cells(adata: AnnData) -> InMemoryCells:
    from cellfm.corpus.adata import anndata_source

    token = np.array([1, 2, 3, 4, 5, 6, 7, 8, 0, 9, 10], np.int32)
    return InMemoryCells.from_source(anndata_source(adata)[0], token)


def test_zero_genes_are_genes_the_cell_lacks(two_batches: AnnData) -> None:
    cells = _cells(two_batches)
    universe = np.unique(cells.gene)
    made = masked_batch(cells, universe, MaskOptions(n_expressed=6, n_zero=3), seed=0, epoch=0)
    assert made.zero is not None
    assert made.hidden is not None
    assert made.scored is not None
    assert made.target is not None
    for i, (start, stop) in enumerate(
        zip(made.offsets[:-1].tolist(), made.offsets[1:].tolist(), strict=True)
    ):
        gene = made.gene[start:stop].numpy()
        mine = set(cells.gene[cells.offsets[i] : cells.offsets[i + 1]].tolist())
        n_shown, n_zero = min(6, len(mine)), min(3, 10 - len(mine))
        assert len(gene) == len(set(gene.tolist())) == n_shown + n_zero
        assert set(gene[:n_shown].tolist()) <= mine
        assert not set(gene[n_shown:].tolist()) & mine
        assert set(gene[n_shown:].tolist()) <= set(universe.tolist())
        lacking = slice(start + n_shown, stop)
        assert (made.target[lacking] == 0).all()
        assert (made.target[start : start + n_shown] > 0).all()
        # a hidden zero gene looks like any hidden gene; a shown one carries the embedding of zero
        assert torch.equal(made.zero[lacking], ~made.hidden[lacking])
        assert not made.zero[start : start + n_shown].any()
        assert not (made.scored[lacking] & ~made.hidden[lacking]).any()
        assert int(made.hidden[lacking].sum()) == n_zero // 2
        assert int(made.scored[start : start + n_shown].sum()) == n_shown // 2


def test_values_and_depth_are_those_of_the_whole_cell(two_batches: AnnData) -> None:
    from cellfm.corpus.tokens import tokenize

    cells = _cells(two_batches)
    token = np.array([1, 2, 3, 4, 5, 6, 7, 8, 0, 9, 10], np.int32)
    whole = tokenize(two_batches.X.tocsr(), token)
    made = masked_batch(
        cells, np.unique(cells.gene), MaskOptions(n_expressed=3, n_zero=2), seed=0, epoch=0
    )
    torch.testing.assert_close(made.depth, whole.depth)
    known = {
        (i, int(gene)): float(value)
        for i in range(whole.n_cells)
        for gene, value in zip(
            whole.gene[whole.offsets[i] : whole.offsets[i + 1]],
            whole.value[whole.offsets[i] : whole.offsets[i + 1]],
            strict=True,
        )
    }
    for i in range(made.n_cells):
        for j in range(int(made.offsets[i]), int(made.offsets[i + 1])):
            expected = known.get((i, int(made.gene[j])), 0.0)
            assert float(made.value[j]) == pytest.approx(expected, abs=1e-6)


def test_every_row_once_an_epoch_and_masks_that_do_not_depend_on_the_batch(
    two_batches: AnnData,
) -> None:
    cells = _cells(two_batches)
    rows = np.arange(5, 45)

    def batches(budget: int) -> MaskedBatches:
        options = MaskOptions(n_expressed=6, n_zero=3)
        return MaskedBatches(cells=cells, rows=rows, options=options, token_budget=budget, seed=0)

    made = list(batches(60).epoch(1))
    assert len(made) == batches(60).n_batches(1) > 3
    assert sorted(torch.cat([part for _, part in made]).tolist()) == rows.tolist()
    orders = [[r for _, part in batches(60).epoch(e) for r in part.tolist()] for e in (0, 1, 1)]
    assert orders[0] != orders[1] == orders[2]

    def by_cell(budget: int) -> dict[int, list[list[float]]]:
        return {
            row: [
                getattr(batch.cells(i, i + 1), name).tolist()
                for name in ("gene", "hidden", "scored", "zero", "target")
            ]
            for batch, part in batches(budget).epoch(1)
            for i, row in enumerate(part.tolist())
        }

    assert by_cell(60) == by_cell(1000)


# -- refusals -------------------------------------------------------------------------------------------------------------


def _refused(cells: AnnData, model: Pretrained, **changes: object) -> str:
    before = cells.copy()
    with pytest.raises(DataError) as found:
        tl.integrate(cells, model, **{"batch_key": "run", **changes})  # type: ignore[arg-type]
    assert set(cells.obsm) == set(before.obsm)
    assert cells.uns == before.uns
    return str(found.value)


def test_missing_column(two_batches: AnnData, model: Pretrained) -> None:
    message = _refused(two_batches, model, batch_key="donor")
    assert "'donor'" in message
    assert "type, run" in message


def test_one_batch(two_batches: AnnData, model: Pretrained) -> None:
    two_batches.obs["run"] = "a"
    assert "one batch, 'a'" in _refused(two_batches, model)


def test_gaps(two_batches: AnnData, model: Pretrained) -> None:
    two_batches.obs["run"] = pd.Categorical([None] * 3 + ["a"] * 37 + ["b"] * 20)
    assert "no value for 3 of 60 cells" in _refused(two_batches, model)


def test_batch_of_one_cell(two_batches: AnnData, model: Pretrained) -> None:
    two_batches.obs["run"] = ["a"] * 59 + ["lonely"]
    message = _refused(two_batches, model)
    assert "lonely" in message
    assert "fewer than 2 cells" in message


def test_unused_category_is_no_batch(two_batches: AnnData) -> None:
    two_batches.obs["run"] = pd.Categorical(two_batches.obs["run"], categories=["a", "b", "c"])
    assert batches_of(two_batches.obs, "run").names == ("a", "b")


def test_numbers_are_batches_too(two_batches: AnnData) -> None:
    two_batches.obs["run"] = [1] * 30 + [2] * 30
    assert batches_of(two_batches.obs, "run").names == ("1", "2")


def test_existing_key(two_batches: AnnData, model: Pretrained) -> None:
    two_batches.obsm[KEY] = kept = np.zeros((60, 2))
    with pytest.raises(OutputExistsError, match="overwrite=True"):
        tl.integrate(two_batches, model, batch_key="run")
    assert two_batches.obsm[KEY] is not None
    np.testing.assert_array_equal(two_batches.obsm[KEY], kept)
    assert "cellfm" not in two_batches.uns


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"method": "combat"}, "'frozen', 'centre', 'finetune'"),
        ({"adversarial": -1.0}, "adversarial"),
        ({"ecs": float("nan")}, "ecs"),
        ({"n_epochs": 0}, "n_epochs"),
        ({"pool": "max"}, "pool"),
        ({"pool": "whitened"}, "whitened"),
        ({"key_added": "a/b"}, "key_added"),
    ],
)
def test_impossible_options(
    two_batches: AnnData, model: Pretrained, changes: dict[str, object], what: str
) -> None:
    with pytest.raises(ConfigError, match=what):
        tl.integrate(two_batches, model, **{"batch_key": "run", **changes})  # type: ignore[arg-type]
    assert not two_batches.obsm


def test_weights_without_decoders(two_batches: AnnData, model: Pretrained) -> None:
    config = replace(model.network.config, decoders=False)
    bare = replace(model, network=initialise(CellFM(config), torch.Generator()).eval())
    with pytest.raises(WeightsError, match="no decoders"):
        tl.integrate(two_batches, bare, batch_key="run")
    tl.integrate(two_batches, bare, batch_key="run", method="centre")


def test_empty_cell(two_batches: AnnData, model: Pretrained) -> None:
    counts = two_batches.X.toarray()
    counts[3] = 0
    two_batches.X = sparse.csr_matrix(counts)
    with pytest.raises(CountsError):
        tl.integrate(two_batches, model, batch_key="run", n_epochs=1)
    assert not two_batches.obsm


# -- files ----------------------------------------------------------------------------------------------------------------


def test_file(two_batches: AnnData, model: Pretrained, tmp_path: Path) -> None:
    source, target = tmp_path / "in.h5ad", tmp_path / "out.h5ad"
    two_batches.write_h5ad(source)
    kept = source.read_bytes()
    summary = tl.integrate_file(source, target, model, batch_key="run", n_epochs=1)
    assert source.read_bytes() == kept
    assert summary.batch_sizes == {"a": 40, "b": 20}
    assert (summary.n_cells, summary.dim) == (60, 16)
    assert summary.best_epoch in (0, 1)
    assert summary.validation is not None
    written = anndata.read_h5ad(target)
    np.testing.assert_array_equal(written.obsm[KEY], integrated(two_batches, model, n_epochs=1))
    assert written.uns["cellfm"][KEY]["weights_hash"] == model.hash
    with pytest.raises(OutputExistsError, match="--overwrite"):
        tl.integrate_file(source, target, model, batch_key="run")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.h5ad", "out.h5ad"]


def test_file_refusals(two_batches: AnnData, model: Pretrained, tmp_path: Path) -> None:
    source, target = tmp_path / "in.h5ad", tmp_path / "out.h5ad"
    with pytest.raises(DataError, match="does not exist"):
        tl.integrate_file(source, target, model, batch_key="run")
    source.write_text("not an h5ad file")
    with pytest.raises(DataError, match="cannot be read"):
        tl.integrate_file(source, target, model, batch_key="run")
    two_batches.write_h5ad(source)
    with pytest.raises(DataError, match="never changed"):
        tl.integrate_file(source, source, model, batch_key="run", overwrite=True)
    with pytest.raises(DataError, match="folder"):
        tl.integrate_file(source, tmp_path / "no" / "out.h5ad", model, batch_key="run")
    with pytest.raises(DataError, match="donor"):
        tl.integrate_file(source, target, model, batch_key="donor")
    assert [path.name for path in tmp_path.iterdir()] == ["in.h5ad"]


def test_the_gene_table_can_begin_from_a_pca(two_batches: AnnData, model: Pretrained) -> None:
    kept = integrated(two_batches, model, n_epochs=1)
    begun = integrated(two_batches, model, n_epochs=1, gene_start="pca")
    assert not np.allclose(kept, begun)
    assert np.isfinite(begun).all()
    with pytest.raises(ConfigError, match="gene_start is 'random'"):
        integrated(two_batches, model, n_epochs=1, gene_start="random")
