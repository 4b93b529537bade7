"""States in units of technical noise."""

from pathlib import Path

import numpy as np
import pytest
from anndata import AnnData
from scipy.sparse import csr_matrix

import cellfm
from cellfm.corpus.cells import InMemoryCells
from cellfm.errors import DataError, WeightsError
from cellfm.genes import Vocabulary
from cellfm.tl._whiten import halves
from cellfm.weights import folder as weights
from cellfm.weights.whitening import WHITENING, Whitening, read_whitening, write_whitening

SYMBOLS = [f"GENE{i}" for i in range(60)]


def planted(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """States whose first direction is signal and whose second, ten times as wide, is noise."""
    n = 4000
    signal = rng.standard_normal((n, 1)) @ np.array([[1.0, 0.0, 0.0]])

    def noisy() -> np.ndarray:
        return signal + rng.standard_normal((n, 3)) * np.array([0.1, 10.0, 0.1])

    return noisy(), noisy(), noisy()


def test_finds_the_direction_that_is_no_noise() -> None:
    states, first, second = planted(np.random.default_rng(0))
    whitening = Whitening.fit(states, first, second, weights_hash="")
    z = whitening(states.astype(np.float32))
    # The ridge of a thousandth of the mean noise, 0.033, comes on top of the signal direction's own 0.01.
    assert whitening.ratio[0] == pytest.approx(1.01 / (0.01 + 1e-3 * 100.02 / 3), rel=0.1)
    assert abs(np.corrcoef(z[:, 0], states[:, 0])[0, 1]) > 0.99
    noise = ((first - second) @ whitening.matrix).var(axis=0) / 2
    assert noise[0] == pytest.approx(0.01 / (0.01 + 1e-3 * 100.02 / 3), rel=0.1)
    assert noise.max() < 1.05
    assert abs(np.corrcoef(z.T)[0, 1]) < 1e-3


def test_a_cell_is_mapped_by_itself() -> None:
    states, first, second = planted(np.random.default_rng(1))
    whitening = Whitening.fit(states, first, second, weights_hash="")
    together = whitening(states[:50].astype(np.float32))
    alone = np.concatenate([whitening(row[None].astype(np.float32)) for row in states[:50]])
    np.testing.assert_array_equal(together, alone)


def test_halves_are_the_cell() -> None:
    rng = np.random.default_rng(0)
    cells = InMemoryCells(
        gene=np.array([1, 3, 2, 5], np.int32),
        count=np.array([4, 1, 7, 300], np.float32),
        offsets=np.array([0, 2, 3, 4]),
        cell=np.arange(3),
    )

    def dense(part: InMemoryCells) -> np.ndarray:
        table = np.zeros((3, 6))
        for i in range(3):
            piece = slice(part.offsets[i], part.offsets[i + 1])
            table[i, part.gene[piece]] = part.count[piece]
        return table

    first, second = halves(cells, rng)
    np.testing.assert_array_equal(dense(first) + dense(second), dense(cells))
    assert (first.count > 0).all()
    assert 60 < dense(first)[2, 5] < 240


@pytest.fixture(scope="module")
def adata() -> AnnData:
    rng = np.random.default_rng(0)
    counts = csr_matrix(rng.poisson(2.0, (300, 60)).astype(np.float32))
    made = AnnData(counts)
    made.var_names = SYMBOLS
    return made


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    model = weights.new("debug", Vocabulary.from_symbols(SYMBOLS))
    weights.save(
        tmp_path / "model", model.network, model.vocabulary, card="", provenance=model.provenance
    )
    return tmp_path / "model"


def test_is_kept_with_the_weights_and_used(adata: AnnData, folder: Path) -> None:
    assert weights.load(folder).whitening is None
    with pytest.raises(WeightsError, match="cellfm weights whiten"):
        cellfm.tl.embed(adata.copy(), folder, pool="whitened")
    whitening = cellfm.tl.fit_whitening(adata, folder)
    write_whitening(folder, whitening)
    model = weights.load(folder)
    assert model.whitening is not None
    np.testing.assert_array_equal(model.whitening.matrix, whitening.matrix)
    plain, white = adata.copy(), adata.copy()
    cellfm.tl.embed(plain, model)
    cellfm.tl.embed(white, model, pool="whitened")
    np.testing.assert_array_equal(white.obsm["X_cellfm"], whitening(plain.obsm["X_cellfm"]))
    assert cellfm.tl.fit_whitening(adata, folder, seed=0).matrix == pytest.approx(whitening.matrix)


def test_belongs_to_its_weights(adata: AnnData, folder: Path) -> None:
    write_whitening(folder, cellfm.tl.fit_whitening(adata, folder))
    with pytest.raises(WeightsError, match="belongs to weights"):
        read_whitening(folder, weights_hash="other", dim=16)
    digest = weights.load(folder).hash
    with pytest.raises(WeightsError, match="expected finite"):
        read_whitening(folder, weights_hash=digest, dim=7)
    path = folder / WHITENING
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(WeightsError, match="damaged"):
        weights.load(folder)


def test_too_few_cells(adata: AnnData, folder: Path) -> None:
    with pytest.raises(DataError, match=r"needs .* cells"):
        cellfm.tl.fit_whitening(adata[:20], folder)


def test_the_packaged_model_has_one() -> None:
    model = weights.load(weights.PACKAGED / weights.MINI)
    assert model.whitening is not None
    assert (np.diff(model.whitening.ratio) <= 0).all()
    assert model.whitening.ratio.min() >= 2
