"""Fine-tuned classifiers learn, leave the model alone, and come back from what they stored."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from cellfm.corpus.cells import InMemoryCells
from cellfm.corpus.tokens import tokenize
from cellfm.corpus.tune_batches import ShuffledBatches, ordered_batches, plain_batch
from cellfm.errors import ConfigError, DataError, WeightsError
from cellfm.tl._tune import TunedClassifier, fit_classifier
from cellfm.train.finetune import TuneConfig
from cellfm.weights.artifact import load_artifact, save_artifact
from tests.unit.tl.conftest import SYMBOLS

N = 90
QUICK = TuneConfig(
    n_epochs=3, patience=3, lr=1e-2, lora_lr=1e-2, head_lr=1e-2, token_budget=100, seed=3
)
HEADS = ("mlp", "clusters")


def counts_of(kinds: np.ndarray) -> np.ndarray:
    """Three kinds of cells, each with four genes of its own."""
    rng = np.random.default_rng(0)
    rate = np.full((3, len(SYMBOLS)), 0.4)
    for kind in range(3):
        rate[kind, 4 * kind : 4 * kind + 4] = 12.0
    return rng.poisson(rate[kinds]).astype(np.float32)


KINDS = np.arange(N) % 3
COUNTS = counts_of(KINDS)
PARTS = np.repeat([0, 1, 2], [50, 10, 30]).astype(np.int8)
TEST = PARTS == 2


class Rows:
    n_rows = N

    def read(self, start, stop):
        from scipy import sparse

        return sparse.csr_matrix(COUNTS[start:stop])


@pytest.fixture(scope="module")
def cells() -> InMemoryCells:
    return InMemoryCells.from_source(Rows(), np.arange(1, len(SYMBOLS) + 1, dtype=np.int32))


def fit(model, cells, *, codes=None, parts=PARTS, **options):
    options = {"n_classes": (3,), "strength": "lora", "config": QUICK, "rank": 2} | options
    return fit_classifier(
        model, cells, KINDS[:, None] if codes is None else codes, parts, **options
    )


def bits(model):
    return {name: p.clone() for name, p in model.network.state_dict().items()}


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("strength", ["lora", "finetune"])
def test_it_learns_and_comes_back(model, cells, tmp_path, strength, head):
    before, state = bits(model), torch.get_rng_state()
    flags = {name: p.requires_grad for name, p in model.network.named_parameters()}
    config = replace(QUICK, n_epochs=8, patience=8)
    tuned = fit(model, cells, strength=strength, head=head, config=config)
    scores = tuned.logits(cells)
    assert [array.shape for array in scores] == [(N, 3)]
    assert (scores[0][TEST].argmax(1) == KINDS[TEST]).mean() > 0.85
    # the model is as it was, and so are the caller's random numbers
    assert all(map(torch.equal, bits(model).values(), before.values()))
    assert {name: p.requires_grad for name, p in model.network.named_parameters()} == flags
    assert model.network.config.lora_rank == 0
    assert torch.equal(torch.get_rng_state(), state)

    save_artifact(tmp_path / "it", tuned.description(), tuned.tensors(), kind="classifier")
    stored = load_artifact(tmp_path / "it", kind="classifier")
    again = TunedClassifier.restore(model, stored.tensors, stored.description)
    np.testing.assert_array_equal(again.logits(cells)[0], scores[0])
    np.testing.assert_array_equal(again.states(cells), tuned.states(cells))
    assert all(map(torch.equal, bits(model).values(), before.values()))
    if strength == "lora":
        assert {name.split(".")[0] for name in stored.tensors} == {"network", "heads"}
        of_network = [name for name in stored.tensors if name.startswith("network")]
        assert all("lora" in name for name in of_network)
        size = sum(t.numel() for t in model.network.parameters())
        assert sum(stored.tensors[name].numel() for name in of_network) < size


def test_merged_adapters_give_the_same_states(model, cells):
    tuned = fit(model, cells)
    with (
        torch.no_grad()
    ):  # the best epoch may be the one before training, whose adapters do nothing
        for name, parameter in tuned.module.network.named_parameters():
            if name.endswith("lora_b"):
                parameter.normal_(generator=torch.Generator().manual_seed(0)).mul_(0.1)
    merged = tuned.merged()
    assert merged.config == model.network.config
    batch = plain_batch(cells)
    with torch.no_grad():
        torch.testing.assert_close(
            merged.encode(batch).cell, tuned.module.network.encode(batch).cell, rtol=1e-5, atol=1e-6
        )
        moved = merged.encode(batch).cell - model.network.encode(batch).cell
    assert moved.abs().max() > 1e-3
    assert tuned.module.network.config.lora_rank == 2


def test_the_seed_decides_everything(model, cells):
    one, same = fit(model, cells), fit(model, cells)
    other = fit(model, cells, config=replace(QUICK, seed=4))
    np.testing.assert_array_equal(one.logits(cells)[0], same.logits(cells)[0])
    assert not np.array_equal(one.logits(cells)[0], other.logits(cells)[0])


def test_no_test_cell_is_looked_at(model, cells):
    """Other cells, and other labels, in the test part change nothing."""
    swapped = cells.select(np.r_[np.arange(60), np.arange(89, 59, -1)])
    codes = KINDS[:, None].copy()
    codes[TEST] = (codes[TEST] + 1) % 3
    one, other = fit(model, cells), fit(model, swapped, codes=codes)
    assert all(map(torch.equal, one.tensors().values(), other.tensors().values()))


def test_from_scratch_knows_nothing_of_the_weights(model, cells):
    noisy = replace(model, network=fit(model, cells).merged())
    options = {"strength": "finetune", "from_scratch": True}
    one, other = fit(model, cells, **options), fit(noisy, cells, **options)
    np.testing.assert_array_equal(one.logits(cells)[0], other.logits(cells)[0])
    with pytest.raises(ConfigError, match="from_scratch"):
        fit(model, cells, from_scratch=True)


def test_several_columns_with_gaps(model, cells):
    codes = np.stack([KINDS, (KINDS == 0).astype(np.int64)], axis=1)
    codes[5:20, 1] = -1
    codes[3] = -1  # no label at all
    tuned = fit(model, cells, codes=codes, n_classes=(3, 2), config=replace(QUICK, n_epochs=8))
    first, second = tuned.logits(cells)
    assert (first[TEST].argmax(1) == KINDS[TEST]).mean() > 0.75
    assert (second[TEST].argmax(1) == (KINDS == 0)[TEST]).mean() > 0.8


def test_cells_without_a_label_are_not_trained_on(model, cells):
    codes = KINDS[:, None].copy()
    codes[20:50] = -1
    parts = PARTS.copy()
    parts[20:50] = 2
    one, other = fit(model, cells, codes=codes), fit(model, cells, parts=parts)
    assert all(map(torch.equal, one.tensors().values(), other.tensors().values()))


def test_several_labels_of_one_cell(model, cells):
    codes = np.stack([KINDS != 0, KINDS == 1], axis=1).astype(np.int64)
    codes[:3, 0] = -1
    tuned = fit(model, cells, codes=codes, n_classes=(2,), multi_label=True)
    found = tuned.logits(cells)[0][TEST] > 0
    assert (found == codes[TEST]).mean() > 0.8


def test_without_validation_the_last_epoch_is_kept(model, cells):
    tuned = fit(model, cells, parts=np.where(PARTS == 1, 2, PARTS).astype(np.int8))
    assert tuned.result.best is None
    assert [record.epoch for record in tuned.history] == [0, 1, 2]


def test_balance_favours_the_rare_class(model, cells):
    rare = KINDS[:, None].copy()
    parts = PARTS.copy()
    parts[np.flatnonzero((KINDS == 2) & (PARTS == 0))[2:]] = 2  # two cells of it are left
    scores = [
        fit(model, cells, codes=rare, parts=parts, balanced=balanced).logits(cells)[0]
        for balanced in (True, False)
    ]
    margin = [(s[:, 2] - s[:, :2].max(axis=1)).mean() for s in scores]
    assert margin[0] > margin[1]


def test_the_description_is_json_and_is_checked(model, cells):
    tuned = fit(model, cells)
    about = json.loads(json.dumps(tuned.description()))
    tensors = tuned.tensors()
    with pytest.raises(WeightsError, match="tuned on weights with the hash"):
        TunedClassifier.restore(replace(model, hash="0" * 64), tensors, about)
    with pytest.raises(WeightsError, match="1 missing"):
        TunedClassifier.restore(model, dict(list(tensors.items())[1:]), about)
    with pytest.raises(WeightsError, match="lacks head"):
        TunedClassifier.restore(
            model, tensors, {name: value for name, value in about.items() if name != "head"}
        )


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"strength": "linear"}, ConfigError, "strength is 'linear'"),
        ({"head": "other"}, ConfigError, "head is 'other'"),
        ({"rank": 0}, ConfigError, "rank of the adapters is 0"),
        ({"n_classes": (1,)}, ConfigError, "at least 2"),
        ({"n_classes": (2, 2), "multi_label": True}, ConfigError, "multi_label has one entry"),
        ({"n_classes": (2,)}, DataError, "expected -1 .* to 1"),
        ({"n_classes": (3, 2)}, DataError, "codes has the shape"),
        ({"parts": np.ones(N, np.int8)}, DataError, "no labelled training cell"),
    ],
)
def test_refusals(model, cells, options, error, message):
    with pytest.raises(error, match=message):
        fit(model, cells, **options)


# Batches


def test_batches_are_what_is_embedded(cells):
    from scipy import sparse

    token = np.arange(1, len(SYMBOLS) + 1, dtype=np.int32)
    for max_genes in (None, 3):
        expected = tokenize(sparse.csr_matrix(COUNTS), token, max_genes=max_genes)
        found = plain_batch(cells, max_genes=max_genes)
        for name in ("gene", "value", "offsets", "depth"):
            assert torch.equal(getattr(found, name), getattr(expected, name)), name


def test_every_row_once_an_epoch_in_an_order_of_seed_and_epoch(cells):
    rows = np.arange(10, 80)
    batches = ShuffledBatches(cells, rows, token_budget=50, seed=1)
    orders = []
    for epoch in (0, 1, 0):
        seen = list(batches.epoch(epoch))
        assert len(seen) == batches.n_batches(epoch)
        assert all(batch.n_tokens <= 50 for batch, _ in seen)
        for batch, of in seen:
            expected = plain_batch(cells.select(of.numpy()))
            assert torch.equal(batch.gene, expected.gene)
        orders.append(torch.cat([of for _, of in seen]).tolist())
    assert orders[0] == orders[2] != orders[1]
    assert sorted(orders[0]) == sorted(orders[1]) == rows.tolist()
    other = ShuffledBatches(cells, rows, token_budget=50, seed=2)
    assert torch.cat([of for _, of in other.epoch(0)]).tolist() != orders[0]


def test_ordered_batches_keep_the_order(cells):
    rows = np.array([4, 2, 80])
    found = list(ordered_batches(cells, rows, token_budget=10))
    assert torch.cat([of for _, of in found]).tolist() == [4, 2, 80]


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"token_budget": 0}, ConfigError, "token_budget is 0"),
        ({"max_genes": 0}, ConfigError, "max_genes is 0"),
        ({"rows": np.zeros(0, np.int64)}, DataError, "0 cells"),
    ],
)
def test_batches_that_cannot_be(cells, options, error, message):
    arguments = {"rows": None, "token_budget": 10, "seed": 0} | options
    with pytest.raises(error, match=message):
        ShuffledBatches(cells, arguments.pop("rows"), **arguments)
