from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from safetensors.numpy import save_file
from scipy import sparse

from cellfm.bench.leakage import cell_fingerprints, seen_cells
from cellfm.errors import CountsError, WeightsError
from cellfm.genes import Vocabulary
from cellfm.weights import folder as weights
from cellfm.weights.folder import MINI, PACKAGED
from cellfm.weights.seen import SEEN, Seen, load_seen, write_seen

SYMBOLS = ["ACTB", "GAPDH", "CD3E", "MS4A1", "LYZ", "NKG7", "B2M", "GNLY"]


class Corpus:
    """What of a store is asked for its list."""

    path = Path("corpus")

    def __init__(self, number: np.ndarray, vocabulary: Vocabulary) -> None:
        self.number, self.vocabulary = number, vocabulary
        self.manifest = type("Manifest", (), {"vocabulary": vocabulary.hash, "hash": "c" * 64})

    def numbers_of(self, name: str) -> np.ndarray:
        assert name == "fingerprint_1"
        return self.number


@pytest.fixture(scope="module")
def default() -> Vocabulary:
    return Vocabulary.from_hgnc()


@pytest.fixture
def cells() -> AnnData:
    counts = np.random.default_rng(0).poisson(2.0, (40, len(SYMBOLS))).astype(np.float32)
    counts[0] = 0
    return AnnData(sparse.csr_matrix(counts), var=pd.DataFrame(index=SYMBOLS))


@pytest.fixture
def model(tmp_path, cells, default) -> weights.Pretrained:
    """A model over some other genes that was trained on cells 0 to 9."""
    made = weights.new("debug", Vocabulary.from_symbols(SYMBOLS[:3]))
    weights.save(tmp_path / "model", made.network, made.vocabulary, card="", provenance={})
    numbers = cell_fingerprints(cells, default)
    write_seen(tmp_path / "model", Corpus(numbers, default), np.arange(10))
    return weights.load(tmp_path / "model")


def test_trained_cells_are_found_whatever_the_genes_of_the_network(cells, model) -> None:
    # cell 0 has no counts, which says nothing of it
    assert seen_cells(cells, model).n_seen == 9
    assert seen_cells(cells[10:].copy(), model).n_seen == 0
    assert seen_cells(cells[5:15].copy(), model).n_cells == 10


def test_order_and_names_of_the_genes_do_not_matter(cells, model) -> None:
    other = cells[:, ::-1].copy()
    other.var_names = [name.lower() if name == "LYZ" else name for name in other.var_names]
    other.var["symbol"] = list(other.var_names)
    other.var_names = [f"g{i}" for i in range(other.n_vars)]
    other.layers["counts"] = other.X.copy()
    other.X = other.X * 0.5
    assert seen_cells(other, model, layer="counts", gene_names="symbol").n_seen == 9


def test_another_count_makes_another_cell(cells, model) -> None:
    changed = cells.copy()
    changed.X[5, 0] += 1
    assert seen_cells(changed, model).n_seen == 8


def test_where_it_cannot_be_known_it_is_not_0(cells, model) -> None:
    logged = cells.copy()
    logged.X = np.log1p(logged.X) / 2
    said = seen_cells(logged, model, scale="log1p")
    assert (said.n_seen, said.reason) == (
        None,
        "the dataset has no counts, which cells are compared by",
    )
    (model.path / SEEN).unlink()
    said = seen_cells(cells, model)
    assert (said.n_seen, said.reason) == (
        None,
        "the weights carry no list of their training cells",
    )
    assert seen_cells(cells, weights.new("debug", model.vocabulary)).n_seen is None


def test_list_over_other_genes_is_not_compared(cells, model) -> None:
    seen = load_seen(model.path)
    metadata = {"format": "1", "vocabulary": "0" * 64}
    save_file({"cell": seen.number}, model.path / SEEN, metadata=metadata)
    assert "another version of cellfm" in seen_cells(cells, model).reason


def test_values_that_are_no_counts_are_refused(cells, model) -> None:
    cells.X = cells.X * 0.5
    with pytest.raises(CountsError, match="no integer"):
        seen_cells(cells, model)


def test_list_is_ascending_and_finds_only_its_own() -> None:
    seen = Seen(number=np.array([3, 7, 2**64 - 1], np.uint64), vocabulary_hash="v")
    asked = np.array([0, 3, 4, 7, 8, 2**64 - 1], np.uint64)
    assert seen.contains(asked).tolist() == [False, True, False, True, False, True]
    empty = Seen(number=np.zeros(0, np.uint64), vocabulary_hash="v")
    assert not empty.contains(asked).any()


def test_corpus_over_other_genes_is_refused(model) -> None:
    corpus = Corpus(np.arange(3, dtype=np.uint64), Vocabulary.from_symbols(SYMBOLS))
    before = (model.path / SEEN).read_bytes()
    with pytest.raises(WeightsError, match=r"built over 8 genes .* over the default genes"):
        write_seen(model.path, corpus, np.arange(3))
    assert (model.path / SEEN).read_bytes() == before


def test_list_belongs_into_a_weights_folder(tmp_path, default) -> None:
    with pytest.raises(WeightsError, match="no weights folder"):
        write_seen(tmp_path, Corpus(np.arange(3, dtype=np.uint64), default), np.arange(3))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("number", "metadata", "message"),
    [
        (np.array([1, 2], np.uint64), {"format": "2", "vocabulary": "v"}, "its format is '2'"),
        (np.array([1, 2], np.int64), {"format": "1", "vocabulary": "v"}, "64-bit numbers"),
        (np.array([1, 2], np.uint64), {"format": "1"}, "over which genes"),
        (np.array([2, 1], np.uint64), {"format": "1", "vocabulary": "v"}, "do not ascend"),
    ],
)
def test_what_is_no_list_is_refused(tmp_path, number, metadata, message) -> None:
    save_file({"cell": number}, tmp_path / SEEN, metadata=metadata)
    with pytest.raises(WeightsError, match=message):
        load_seen(tmp_path)


def test_damaged_list_is_refused(tmp_path) -> None:
    (tmp_path / SEEN).write_bytes(b"no such file")
    with pytest.raises(WeightsError, match="cannot be read as a safetensors file"):
        load_seen(tmp_path)


@pytest.mark.parametrize(
    ("name", "n_seen"),
    [
        ("pbmc3k/pbmc3k", 0),
        ("baron_pancreas_mini/baron_pancreas_mini", 171),
        ("tian_3celllines_2tech/tian_3celllines_2tech", 499),
    ],
)
def test_packaged_model_knows_what_it_was_trained_on(shared_data, name, n_seen) -> None:
    adata = anndata.read_h5ad(shared_data / f"{name}.h5ad")
    assert seen_cells(adata, weights.load(MINI)).n_seen == n_seen


def test_packaged_list_has_the_cells_of_the_card() -> None:
    seen = load_seen(PACKAGED / MINI)
    assert len(seen) == 3566
    assert seen.vocabulary_hash == Vocabulary.from_hgnc().hash
    assert "3,566 cells" in (PACKAGED / MINI / "card.md").read_text(encoding="utf-8")
