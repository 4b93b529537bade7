"""Scores of pairs agree with plain loops over cells and genes, stream their cells, and know direction, ties and themselves."""

import weakref
from dataclasses import replace

import numpy as np
import pytest
import torch

from cellfm.batch import CellBatch
from cellfm.corpus.cells import InMemoryCells
from cellfm.corpus.tune_batches import plain_batch
from cellfm.errors import ConfigError, DataError, WeightsError
from cellfm.genes import Vocabulary
from cellfm.nn import CellFM
from cellfm.nn.attribution import gene_presence
from cellfm.nn.retention import feature_map
from cellfm.tl._network.cells import PairGenes, PairSums, draw
from cellfm.tl._network.embedding import embedding_scores
from cellfm.tl._network.gradient import gradient_effects, gradient_scores, state_jacobian
from cellfm.tl._network.knockout import knockout_effects, knockout_scores
from cellfm.tl._network.retention import retention_bytes, retention_scores
from cellfm.weights.folder import Pretrained, random_twin
from tests.cells import network

N_GENES = 40
AGREES = 1e-5  # the target of the task
DOUBLE = 1e-7  # float64, stored as float32
STATES = 3e-6  # differences of float32 states
SOURCES, TARGETS = np.array([7, 3, 21, 39]), np.arange(1, 31)


def pretrained(net: CellFM) -> Pretrained:
    vocabulary = Vocabulary.from_symbols([f"G{i}" for i in range(1, N_GENES + 1)])
    return Pretrained(network=net, vocabulary=vocabulary, provenance={}, hash="f" * 64, path=None)


@pytest.fixture(scope="module")
def model() -> Pretrained:
    return pretrained(network())


@pytest.fixture(scope="module")
def cells() -> InMemoryCells:
    """Twelve cells, the last ones of 2, 1 and 0 genes; gene 39 is never beside gene 5."""
    rng = np.random.default_rng(0)
    lengths = [*rng.integers(8, 25, 9), 2, 1, 0]
    genes = []
    for n in lengths:
        gene = np.sort(rng.choice(N_GENES, n, replace=False)) + 1
        genes.append(gene[gene != 5] if 39 in gene else gene)
    return InMemoryCells(
        gene=np.concatenate(genes).astype(np.int32),
        count=rng.integers(1, 9, sum(map(len, genes))).astype(np.float32),
        offsets=np.r_[0, np.cumsum([len(gene) for gene in genes])],
        cell=np.arange(len(genes)),
    )


def doubled(cells: InMemoryCells, *, each: int = 1) -> list[CellBatch]:
    parts = [cells.read(i, min(i + each, len(cells))) for i in range(0, len(cells), each)]
    plain = [plain_batch(part.select(np.arange(len(part)))) for part in parts]
    return [replace(b, value=b.value.double(), depth=b.depth.double()) for b in plain]


def naive_retention(net: CellFM, cells: list[CellBatch], ranked: str) -> tuple[np.ndarray, ...]:
    """The whole n × n table of each head, layer and cell, in float64; (head, source, target) and (source, target)."""
    n_parts = net.config.n_layers * net.config.n_heads
    total = np.zeros((n_parts, N_GENES + 1, N_GENES + 1))
    number = np.zeros((N_GENES + 1, N_GENES + 1))
    weights: list[torch.Tensor] = []

    def read(module: torch.nn.Module, arguments: tuple[torch.Tensor, ...]) -> None:
        q, k = (
            feature_map(projection(arguments[0])[net.config.n_prefix :]).unflatten(1, (module.n_heads, -1))
            for projection in (module.query, module.key)
        )  # fmt: skip
        if ranked == "targets":
            q = q / q.norm(dim=2, keepdim=True).clamp(min=1e-300)
        weights.append(torch.einsum("ihd,jhd->hij", q, k))

    hooks = [layer.retention.register_forward_pre_hook(read) for layer in net.encoder_layers]
    for cell in cells:
        n, gene = cell.n_tokens, cell.gene.numpy()
        if n < 3:
            continue
        weights.clear()
        with torch.no_grad():
            net.encode(cell)
        table = torch.cat(weights).numpy()
        for i in range(n):
            for j in range(n):
                own = table[:, i, j][:, None]
                rest = [x for x in range(n) if x not in (i, j)]
                others = table[:, i, rest] if ranked == "sources" else table[:, rest, j]
                rank = ((others < own).sum(1) + (others == own).sum(1) / 2) / max(n - 2, 1)
                total[:, gene[j], gene[i]] += rank
                number[gene[j], gene[i]] += 1
    for hook in hooks:
        hook.remove()
    np.fill_diagonal(number, 0)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = np.where(number > 0, total / number, np.nan)
    return mean[:, SOURCES][:, :, TARGETS], number[SOURCES][:, TARGETS]


def close(found: np.ndarray, expected: np.ndarray, tolerance: float) -> bool:
    return np.allclose(found, expected, atol=tolerance, rtol=0, equal_nan=True)


@pytest.mark.parametrize("ranked", ["sources", "targets"])
@pytest.mark.parametrize("each", [1, 5])
def test_retention_scores_are_those_of_whole_tables(cells, ranked, each):
    net = network().double()
    found = retention_scores(
        pretrained(net), doubled(cells, each=each), SOURCES, TARGETS, ranked=ranked, by_head=True
    )
    expected, number = naive_retention(net, doubled(cells), ranked)
    assert found.by_head is not None
    assert close(found.by_head, expected, DOUBLE)
    assert close(found.score, expected.mean(0), DOUBLE)
    assert np.array_equal(found.n_cells, number)
    assert found.heads[0] == "layer 0 head 0"
    assert len(found.heads) == 8
    assert not close(found.score, naive_retention(net, doubled(cells)[1:], ranked)[0].mean(0), 1e-3)


def test_single_precision_agrees_with_double_and_the_batches_do_not_matter(model, cells):
    expected, _ = naive_retention(network().double(), doubled(cells), "sources")
    for budget in (1, 30, 10_000):
        found = retention_scores(model, cells, SOURCES, TARGETS, token_budget=budget)
        assert close(found.score, expected.mean(0), AGREES)
        assert found.by_head is None
        assert found.heads == ()


def test_direction_self_pairs_and_pairs_never_together(model, cells):
    both = np.arange(1, N_GENES + 1)
    found = retention_scores(model, cells, both, both)
    assert np.isnan(np.diag(found.score)).all()
    assert not np.diag(found.n_cells).any()
    assert np.isnan(found.score[4, 38])
    assert found.n_cells[4, 38] == 0
    there = ~np.isnan(found.score) & ~np.isnan(found.score.T)
    assert np.abs(found.score - found.score.T)[there].max() > 0.1
    assert list(found.sources[:2]) == ["G1", "G2"]
    # a pair's score is its own: it does not depend on what else was asked for
    one = retention_scores(model, cells, both[6:7], both[10:11])
    assert close(one.score, found.score[6:7, 10:11], AGREES)


def test_cells_are_streamed_and_the_sums_do_not_grow(model, cells):
    alive: list[weakref.ref[torch.Tensor]] = []

    def stream(n: int):
        for i in range(n):
            part = plain_batch(cells.select(np.arange(i % 9, i % 9 + 1)))
            alive.append(weakref.ref(part.value))
            yield part
            del part
            # the batch in hand, at most, and never those before it
            assert sum(one() is not None for one in alive[:-1]) == 0

    done = []
    found = retention_scores(
        model, stream(45), SOURCES, TARGETS, progress=lambda *told: done.append(told)
    )
    assert done[-1] == (45, 45)
    once = retention_scores(model, stream(9), SOURCES, TARGETS)
    assert close(found.score, once.score, DOUBLE)
    assert np.array_equal(found.n_cells, 5 * once.n_cells)


@pytest.mark.parametrize("n_heads", [0, 8])
def test_the_stated_bytes_are_those_that_are_held(model, cells, n_heads):
    found = retention_scores(model, cells, SOURCES, TARGETS, by_head=n_heads > 0)
    sums = PairSums(PairGenes.of(model, SOURCES, TARGETS), max(1, n_heads))
    results = found.score.nbytes + (0 if found.by_head is None else found.by_head.nbytes)
    assert retention_bytes(len(SOURCES), len(TARGETS), n_heads=n_heads) == sums.n_bytes + results


def test_knockouts_are_those_of_cells_written_down_without_the_gene(model, cells):
    net = network().double()
    total = np.zeros((2, N_GENES + 1, N_GENES + 1))
    number = np.zeros((N_GENES + 1, N_GENES + 1))

    def predicted(cell: CellBatch, tokens: torch.Tensor) -> np.ndarray:
        state = net.encode(cell, wanted="cell").cell.expand(len(tokens), -1)
        return net.cell_decoder(net.gene_embedding(tokens), state).numpy()

    with torch.no_grad():
        for cell in doubled(cells):
            for place, source in enumerate(cell.gene.tolist()):
                keep = torch.arange(cell.n_tokens) != place
                without = replace(
                    cell,
                    gene=cell.gene[keep],
                    value=cell.value[keep],
                    offsets=torch.tensor([0, cell.n_tokens - 1]),
                )
                change = predicted(cell, cell.gene) - predicted(without, cell.gene)
                total[:, source, cell.gene.numpy()] += [np.abs(change), change]
                number[source, cell.gene.numpy()] += 1
    np.fill_diagonal(number, 0)
    with np.errstate(invalid="ignore", divide="ignore"):
        size, signed = np.where(number > 0, total / number, np.nan)[:, SOURCES][:, :, TARGETS]
    found, effect = knockout_effects(model, cells, SOURCES, TARGETS)
    assert close(found.score, size, STATES)
    assert close(effect, signed, STATES)
    assert np.nanmax(size) > 100 * STATES
    assert np.array_equal(knockout_scores(model, cells, SOURCES, TARGETS).score, found.score, equal_nan=True)  # fmt: skip


def test_the_jacobian_is_that_of_finite_differences(cells):
    net = network().double()
    (batch,) = doubled(cells.read(0, 2), each=2)
    found = state_jacobian(net, batch)
    step, first = 1e-6, int(batch.offsets[1])

    def states(presence: torch.Tensor) -> torch.Tensor:
        with torch.no_grad(), gene_presence(net, batch, presence, n_prefix=net.config.n_prefix):
            return net.encode(batch, wanted="cell").cell

    for place in (0, first - 1, first, batch.n_tokens - 1):
        moved = torch.zeros_like(batch.value)
        moved[place] = step
        difference = (states(1 + moved) - states(1 - moved)) / (2 * step)
        assert torch.allclose(found[:, place], difference[int(place >= first)], atol=1e-6)
    assert found.abs().max() > 1e-3


def test_gradients_are_averages_of_what_targets_make_of_the_jacobian(model, cells):
    net = model.network
    found, effect = gradient_effects(model, cells, SOURCES, TARGETS)
    often = np.where(np.isfinite(found.score), found.n_cells, 0)
    row, column = np.unravel_index(often.argmax(), often.shape)
    source, target = int(SOURCES[row]), int(TARGETS[column])
    slopes = []
    for i in range(len(cells)):
        one = plain_batch(cells.select(np.array([i])))
        gene = one.gene.tolist()
        if source in gene and target in gene:
            with torch.no_grad():
                query = net.cell_decoder.map(net.gene_embedding.weight[target]).sigmoid()
            slopes.append(float(query @ state_jacobian(net, one)[:, gene.index(source)]))
    assert found.n_cells[row, column] == len(slopes) > 1
    assert found.score[row, column] == pytest.approx(np.mean(np.abs(slopes)), abs=1e-6)
    assert effect[row, column] == pytest.approx(np.mean(slopes), abs=1e-6)
    assert np.isnan(found.score[0, 6])  # a gene and itself
    assert np.array_equal(gradient_scores(model, cells, SOURCES, TARGETS).score, found.score, equal_nan=True)  # fmt: skip


def test_static_embeddings_are_cosines_of_the_centred_table_and_symmetric(model):
    everything = np.arange(1, N_GENES + 1)
    found = embedding_scores(model, everything, everything)
    table = model.network.gene_embedding.weight.detach().double().numpy()[1 : N_GENES + 1]
    table = table - table.mean(0)
    table /= np.linalg.norm(table, axis=1, keepdims=True)
    expected = table @ table.T
    np.fill_diagonal(expected, np.nan)
    assert close(found.score, expected, 1e-6)
    assert close(found.score, found.score.T, 1e-6)
    assert not found.n_cells.any()


def test_contextual_embeddings_are_of_mean_states(model, cells):
    everything = np.arange(1, N_GENES + 1)
    batch = plain_batch(cells)
    with torch.no_grad():
        states = model.network.encode(batch).gene.double().numpy()
    gene = batch.gene.numpy()
    mean = np.stack([states[gene == t].mean(0) for t in np.unique(gene)])
    mean = mean - mean.mean(0)
    mean /= np.linalg.norm(mean, axis=1, keepdims=True)
    expected = np.full((N_GENES, N_GENES), np.nan)
    expected[np.ix_(np.unique(gene) - 1, np.unique(gene) - 1)] = mean @ mean.T
    np.fill_diagonal(expected, np.nan)
    found = embedding_scores(model, everything, everything, cells=cells)
    assert close(found.score, expected, AGREES)
    assert found.n_cells[0, 1] == min((gene == 1).sum(), (gene == 2).sum())


def test_random_weights_are_scored_by_the_same_functions(model, cells):
    twin = random_twin(model, seed=1)
    for found, own in (
        (retention_scores(twin, cells, SOURCES, TARGETS), retention_scores),
        (knockout_scores(twin, cells, SOURCES, TARGETS), knockout_scores),
        (gradient_scores(twin, cells, SOURCES, TARGETS), gradient_scores),
    ):
        assert np.isfinite(found.score[found.n_cells > 1]).any()
        there = own(model, cells, SOURCES, TARGETS).score
        assert not close(found.score, there, 1e-6)
        assert np.array_equal(np.isnan(found.score), np.isnan(there))


def test_cells_are_drawn_by_seed_and_kept_in_order(cells):
    some = draw(cells, 5, seed=3)
    assert len(some) == 5
    assert (np.diff(some.cell) > 0).all()
    assert np.array_equal(some.cell, draw(cells, 5, seed=3).cell)
    assert any(not np.array_equal(some.cell, draw(cells, 5, seed=s).cell) for s in range(5))
    assert draw(cells, None, seed=0) is cells
    assert draw(cells, 12, seed=0) is cells


@pytest.mark.parametrize(
    ("sources", "message"),
    [
        (np.array([], np.int64), "at least one gene"),
        (np.array([1.0]), "at least one gene"),
        (np.array([0, 3]), "those of this model's genes are 1 to 40"),
        (np.array([41]), "those of this model's genes are 1 to 40"),
        (np.array([3, 5, 3]), "token 3 more than once"),
    ],
)
def test_wrong_genes_are_refused(model, cells, sources, message):
    with pytest.raises(ConfigError, match=message):
        retention_scores(model, cells, sources, TARGETS)
    with pytest.raises(ConfigError, match=message):
        retention_scores(model, cells, SOURCES, sources)


def test_no_cells_and_no_decoders_are_refused(model, cells):
    with pytest.raises(DataError, match="no cells"):
        retention_scores(model, [], SOURCES, TARGETS)
    with pytest.raises(DataError, match="no cells"):
        embedding_scores(model, SOURCES, TARGETS, cells=[])
    for scores in (knockout_scores, gradient_scores):
        with pytest.raises(ConfigError, match="n_cells is 0"):
            scores(model, cells, SOURCES, TARGETS, n_cells=0)
        with pytest.raises(DataError, match="no cells"):
            scores(model, cells.read(0, 0), SOURCES, TARGETS)
        with pytest.raises(WeightsError, match="have no decoders"):
            scores(pretrained(network(decoders=False)), cells, SOURCES, TARGETS)
