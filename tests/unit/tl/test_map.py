"""Reference indices: exact neighbours, votes, distances with a meaning, and refusals."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData, read_h5ad
from scipy import sparse
from scipy.spatial.distance import cdist

from cellfm import tl
from cellfm.errors import (
    ConfigError,
    DataError,
    GeneMatchError,
    MissingDependencyError,
    OutputExistsError,
    WeightsError,
)
from cellfm.tl._embed import frozen_states
from cellfm.tl._label_transfer import transfer_scores, vote_shares, vote_weights
from cellfm.tl._reference_index import (
    QUANTISER,
    IndexDescription,
    Neighbours,
    Standard,
    choose_structure,
    list_count,
    make_vectors,
    nearest,
    read_index,
)
from cellfm.tl._states import EmbedOptions
from cellfm.weights.folder import Pretrained
from cellfm.weights.whitening import Whitening

pytest.importorskip("faiss")

LEAST_RECALL = {"flat": 0.999, "ivf": 0.99, "ivf8": 0.98, "hnsw": 0.99}
ERROR = {"ivf8": 0.02}  # a byte for each number
TOLERANCE = 2e-3  # faiss takes |a|² − 2ab + |b|² in float32


@pytest.fixture
def reference(adata: AnnData) -> AnnData:
    """The cells with types that can be told apart, donors, and a few cells without a label."""
    counts = adata.X.toarray()
    kind = np.arange(300) % 3
    counts[:, [2, 3, 5]] = 0
    counts[np.arange(300), np.array([2, 3, 5])[kind]] = 300
    adata.X = sparse.csr_matrix(counts)
    adata.obs["cell_type"] = pd.Categorical(np.array(["T", "B", "NK"])[kind])
    adata.obs.loc[adata.obs_names[:4], "cell_type"] = np.nan
    adata.obs["donor"] = np.where(np.arange(300) < 150, "d1", "d2")
    return adata


@pytest.fixture
def index(reference: AnnData, model: Pretrained, tmp_path: Path) -> Path:
    tl.build_reference(reference[:240].copy(), tmp_path / "index", model, keep="donor")
    return tmp_path / "index"


def test_neighbours_are_those_of_exact_search_on_standardised_states(
    reference: AnnData, model: Pretrained, index: Path
) -> None:
    query = reference[240:].copy()
    tl.map_to_reference(query, index, model, k=7, neighbors=True)
    states, _ = frozen_states(reference, model, EmbedOptions())
    mean, deviation = states[:240].mean(0), states[:240].std(0)
    z = (states - mean) / deviation
    distance = cdist(z[240:], z[:240])
    nearest_ones = np.sort(distance, axis=1)[:, :7]
    # Two that are as far but for rounding may change places.
    found = np.take_along_axis(distance, query.obsm["map_neighbors"], axis=1)
    assert np.allclose(found, nearest_ones, atol=TOLERANCE)
    assert np.allclose(query.obsm["map_distances"], nearest_ones, atol=TOLERANCE)
    assert all(len(set(row)) == 7 for row in query.obsm["map_neighbors"])
    assert np.allclose(query.obs["map_distance"], nearest_ones.mean(1), atol=TOLERANCE)


def test_labels_are_transferred_and_nothing_else_is_touched(
    reference: AnnData, model: Pretrained, index: Path
) -> None:
    query = reference[240:].copy()
    before = query.copy()
    tl.map_to_reference(query, index, model, probabilities=True)
    assert (query.obs["map_cell_type"].astype(str) == query.obs["cell_type"]).mean() > 0.9
    shares = query.obsm["map_cell_type_probabilities"]
    assert list(shares.columns) == ["B", "NK", "T"]
    assert np.allclose(shares.sum(1), 1.0)
    assert np.allclose(shares.max(1), query.obs["map_cell_type_probability"])
    added = {
        "map_cell_type",
        "map_cell_type_probability",
        "map_distance",
        "map_percentile",
    }
    assert set(query.obs) - set(before.obs) == added
    assert (query.X != before.X).nnz == 0
    notes = query.uns["cellfm"]["map"]
    assert notes["weights_hash"] == model.hash
    assert notes["k"] == 15
    with pytest.raises(OutputExistsError, match="map_distance"):
        tl.map_to_reference(query, index, model)
    tl.map_to_reference(query, index, model, overwrite=True)


def test_percentile_tells_cells_like_the_reference_from_strange_ones(
    reference: AnnData, model: Pretrained, index: Path
) -> None:
    usual = reference[240:].copy()
    tl.map_to_reference(usual, index, model)
    assert 30 < usual.obs["map_percentile"].median() < 75
    strange = usual.copy()
    strange.obs = strange.obs[["donor"]]
    strange.X = sparse.csr_matrix(np.eye(11, dtype=np.float32)[np.arange(60) % 8] * 500)
    tl.map_to_reference(strange, index, model)
    assert (strange.obs["map_percentile"] > 99).mean() > 0.95


def test_usual_distances_leave_the_cell_itself_out(
    reference: AnnData, model: Pretrained, index: Path
) -> None:
    states, _ = frozen_states(reference[:240].copy(), model, EmbedOptions())
    z = (states - states.mean(0)) / states.std(0)
    distance = np.sort(cdist(z, z) + np.diag(np.full(240, np.inf)), axis=1)
    reference = read_index(index)
    assert np.allclose(reference.calibration, distance[:, :50], atol=5 * TOLERANCE)
    assert np.array_equal(
        reference.percentile(np.array([0.0, 1e9, np.nan], np.float32), 5),
        np.array([0.0, 100.0, np.nan], np.float32),
        equal_nan=True,
    )


def test_usual_distances_by_donor_are_those_to_other_donors(
    reference: AnnData, model: Pretrained, tmp_path: Path
) -> None:
    # Donor 2 is a copy of donor 1 that lies elsewhere: only its own cells are near.
    counts = reference.X.toarray()
    counts[150:] = counts[:150]
    counts[150:, 4] += 200
    reference.X = sparse.csr_matrix(counts)
    among_all = tl.build_reference(reference, tmp_path / "all", model)
    by_donor = tl.build_reference(reference, tmp_path / "donor", model, batch_key="donor")
    near, far = (read_index(tmp_path / name).calibration.mean() for name in ("all", "donor"))
    assert far > 1.2 * near
    assert by_donor.leave_one_out["cell_type"]["n_cells"] == 296
    assert (
        by_donor.leave_one_out["cell_type"]["accuracy"]
        <= among_all.leave_one_out["cell_type"]["accuracy"]
    )


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
@pytest.mark.parametrize("structure", ["flat", "ivf", "ivf8", "hnsw"])
def test_every_structure_finds_nearly_what_exact_search_finds(structure: str, metric: str) -> None:
    rng = np.random.default_rng(0)
    centres = rng.normal(0, 3, (20, 16))
    states = (centres[rng.integers(20, size=4040)] + rng.normal(size=(4040, 16))).astype(np.float32)
    members, queries = states[:4000], states[4000:]
    standard = Standard.of(members)
    about = IndexDescription(
        weights_hash="",
        vocabulary_hash="",
        weights="",
        pool="cls",
        whitening_hash=None,
        n_cells=4000,
        dim=16,
        metric=metric,
        structure=structure,
        n_lists=list_count(4000) if structure in QUANTISER else 0,
        labels=(),
        batch_key=None,
        leave_one_out={},
        cellfm_version="",
    )
    index = make_vectors(members, standard, metric=metric, structure=structure)
    found = nearest(index, standard.vectors(queries, metric), 10, about=about)
    z = (members - members.mean(0)) / members.std(0), (queries - members.mean(0)) / members.std(0)
    distance = cdist(z[1], z[0], metric)
    exact = np.argsort(distance, axis=1)[:, :10]
    overlap = np.mean([len(set(a) & set(b)) / 10 for a, b in zip(found.row, exact, strict=True)])
    assert overlap > LEAST_RECALL[structure]
    expected = np.take_along_axis(distance, found.row, axis=1)
    assert np.allclose(found.distance, expected, atol=ERROR.get(structure, TOLERANCE))
    some = np.arange(4000) % 2 == 0
    assert not (
        nearest(index, standard.vectors(queries, metric), 5, about=about, allowed=some).row % 2
    ).any()


def test_structure_follows_size() -> None:
    assert [choose_structure("auto", n) for n in (10, 10**6, 10**7)] == ["flat", "ivf", "ivf8"]
    assert choose_structure("ivf", 10) == "ivf"
    assert (list_count(30), list_count(10**6), list_count(10**10)) == (1, 4096, 65_536)
    with pytest.raises(ConfigError, match="'flat', 'ivf', 'ivf8', 'hnsw'"):
        choose_structure("tree", 10)


def test_votes_fall_with_distance_and_missing_labels_do_not_vote() -> None:
    distance = np.array([[1.0, 2.0], [0.0, 0.0], [1.0, np.inf]], np.float32)
    weight = vote_weights(distance)
    assert np.allclose(weight[0], [np.exp(-0.125), np.exp(-0.5)])
    assert np.allclose(weight[1:], [[1, 1], [np.exp(-0.5), 0]])
    code = np.array([0, 1, -1])
    found = Neighbours(np.array([[0, 1], [2, 0], [2, -1]]), distance)
    shares = vote_shares(found, code, 2)
    assert np.allclose(shares[0], weight[0] / weight[0].sum())
    assert np.allclose(shares[1:], [[1, 0], [0, 0]])


def test_transfer_scores_are_those_of_sklearn() -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(0)
    true, predicted = rng.integers(4, size=(2, 200))
    true[:20] = -1
    scores = transfer_scores(predicted, true)
    assert scores["n_cells"] == 180
    assert np.isclose(scores["accuracy"], metrics.accuracy_score(true[20:], predicted[20:]))
    assert np.isclose(
        scores["macro_f1"], metrics.f1_score(true[20:], predicted[20:], average="macro")
    )


def test_search_from_the_index_and_from_a_query_agree(
    reference: AnnData, model: Pretrained, index: Path
) -> None:
    inside = tl.search(None, index, cells="cell7", n_results=4)
    assert list(inside.columns) == [
        "query",
        "rank",
        "cell",
        "distance",
        "percentile",
        "cell_type",
        "donor",
    ]
    assert "cell7" not in set(inside["cell"])
    assert list(inside["rank"]) == [1, 2, 3, 4]
    outside = tl.search(reference, index, model, cells=["cell7", "cell290"], n_results=5)
    assert outside["cell"][0] == "cell7"
    assert list(outside["cell"][1:5]) == list(inside["cell"])
    assert np.allclose(outside["distance"][1:5], inside["distance"], atol=TOLERANCE)
    assert inside["cell_type"].astype(str).eq("B").all()


def test_a_file_is_mapped_like_an_anndata(
    reference: AnnData, model: Pretrained, index: Path, tmp_path: Path
) -> None:
    query = reference[240:].copy()
    query.write_h5ad(tmp_path / "query.h5ad")
    summary = tl.map_file(
        tmp_path / "query.h5ad",
        index,
        tmp_path / "out.h5ad",
        model=model,
        probabilities=True,
        neighbors=True,
    )
    tl.map_to_reference(query, index, model, probabilities=True, neighbors=True)
    written = read_h5ad(tmp_path / "out.h5ad")
    pd.testing.assert_frame_equal(written.obs, query.obs)
    assert (written.X != query.X).nnz == 0
    for key in query.obsm:
        assert np.allclose(written.obsm[key], query.obsm[key])
    assert list(summary.obs) == [
        "map_distance",
        "map_percentile",
        "map_cell_type",
        "map_cell_type_probability",
    ]
    assert written.uns["cellfm"]["map"]["weights_hash"] == model.hash
    with pytest.raises(OutputExistsError, match="exists already"):
        tl.map_file(tmp_path / "query.h5ad", index, tmp_path / "out.h5ad", model=model)
    with pytest.raises(OutputExistsError, match="same file"):
        tl.map_file(tmp_path / "query.h5ad", index, tmp_path / "query.h5ad", model=model)
    tl.map_file(tmp_path / "query.h5ad", index, tmp_path / "made" / "out.h5ad", model=model)
    assert (tmp_path / "made" / "out.h5ad").is_file()
    again = tl.map_file(
        tmp_path / "out.h5ad", index, tmp_path / "third.h5ad", model=model, overwrite=True
    )
    pd.testing.assert_frame_equal(again.obs, summary.obs)


def test_an_index_of_a_file_is_that_of_its_cells(
    reference: AnnData, model: Pretrained, index: Path, tmp_path: Path
) -> None:
    reference[:240].copy().write_h5ad(tmp_path / "reference.h5ad")
    tl.build_reference(tmp_path / "reference.h5ad", tmp_path / "other", model, keep="donor")
    one, other = (json.loads((f / "index.json").read_text()) for f in (index, tmp_path / "other"))
    for name in ("index.faiss", "constants.npz"):
        assert one["files"][name]["bytes"] == other["files"][name]["bytes"]
    assert one["files"]["index.faiss"] == other["files"]["index.faiss"]
    assert {path.name for path in index.iterdir()} == {
        "index.json",
        "index.faiss",
        "cells.h5ad",
        "constants.npz",
    }


def test_empty_cells_are_refused_or_get_nothing(
    reference: AnnData, model: Pretrained, index: Path
) -> None:
    query = reference[240:].copy()
    counts = query.X.toarray()
    counts[3] = 0
    query.X = sparse.csr_matrix(counts)
    with pytest.raises(DataError):
        tl.map_to_reference(query, index, model)
    tl.map_to_reference(query, index, model, empty="nan")
    row = query.obs.iloc[3]
    assert row[["map_cell_type", "map_distance", "map_percentile"]].isna().all()
    assert query.obs.drop(index=query.obs_names[3])["map_distance"].notna().all()


def test_other_weights_are_refused(reference: AnnData, model: Pretrained, index: Path) -> None:
    other = replace(model, hash="e" * 64)
    with pytest.raises(WeightsError, match=r"made with other weights.*eeee"):
        tl.map_to_reference(reference, index, other)
    with pytest.raises(WeightsError, match="comes with the package"):
        tl.search(reference, index, cells="cell7")
    assert "map_distance" not in reference.obs


@pytest.fixture
def whitened(reference: AnnData, model: Pretrained) -> Pretrained:
    """The model with a whitening."""
    states, _ = frozen_states(reference, model, EmbedOptions())
    halves = np.random.default_rng(0).normal(0, 1, (2, *states.shape)) * states.std(0) / 4
    whitening = Whitening.fit(
        states, states + halves[0], states + halves[1], weights_hash=model.hash
    )
    return replace(model, whitening=whitening)


def test_whitened_states_are_the_default_and_keep_their_units(
    reference: AnnData, model: Pretrained, whitened: Pretrained, tmp_path: Path
) -> None:
    made = tl.build_reference(reference[:240].copy(), tmp_path / "index", whitened)
    assert (made.pool, made.whitening_hash) == ("whitened", whitened.whitening.hash)
    query = reference[240:].copy()
    tl.map_to_reference(query, tmp_path / "index", whitened, k=7)
    states, _ = frozen_states(reference, whitened, EmbedOptions(pool="whitened"))
    assert states.std(0).max() > 2 * states.std(0).min()
    nearest_ones = np.sort(cdist(states[240:], states[:240]), axis=1)[:, :7]
    assert np.allclose(query.obs["map_distance"], nearest_ones.mean(1), rtol=1e-3)
    plain = tl.build_reference(reference, tmp_path / "plain", model)
    named = tl.build_reference(reference, tmp_path / "named", whitened, pool="cls")
    for one in (plain, named):
        assert (one.pool, one.whitening_hash) == ("cls", None)
    with pytest.raises(WeightsError, match="needs weights with a whitening"):
        tl.build_reference(reference, tmp_path / "none", model, pool="whitened")


def test_another_whitening_of_the_same_weights_is_refused(
    reference: AnnData, model: Pretrained, whitened: Pretrained, tmp_path: Path
) -> None:
    tl.build_reference(reference, tmp_path / "index", whitened)
    turned = replace(whitened.whitening, matrix=-whitened.whitening.matrix)
    other = replace(whitened, whitening=turned)
    with pytest.raises(WeightsError, match=f"has another, {turned.hash[:12]}"):
        tl.map_to_reference(reference, tmp_path / "index", other)
    with pytest.raises(WeightsError, match="has no whitening"):
        tl.search(reference, tmp_path / "index", model, cells="cell7")
    tl.build_reference(reference, tmp_path / "plain", model)
    tl.map_to_reference(reference, tmp_path / "plain", other)  # its states are not whitened


@pytest.mark.parametrize("name", ["index.faiss", "cells.h5ad", "constants.npz"])
def test_a_damaged_index_is_refused_before_it_is_parsed(index: Path, name: str) -> None:
    content = bytearray((index / name).read_bytes())
    content[len(content) // 2] ^= 1
    (index / name).write_bytes(content)
    with pytest.raises(DataError, match=f"{name} is damaged: its SHA-256"):
        read_index(index)
    (index / name).unlink()
    with pytest.raises(DataError, match="no such file"):
        read_index(index)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: text[:-20], "index.json is damaged"),
        (lambda text: text.replace('"format": 1', '"format": 9'), "format 9; expected"),
        (lambda text: text.replace("reference index", "annotator"), "kind 'annotator'"),
        (lambda text: text.replace('"dim": 16', '"dim": 17'), "do not belong together"),
        (lambda text: text.replace('"pool"', '"pond"'), "damaged"),
    ],
)
def test_a_strange_description_is_refused(index: Path, change, message: str) -> None:
    path = index / "index.json"
    path.write_text(change(path.read_text()))
    with pytest.raises(DataError, match=message):
        read_index(index)


def test_what_cannot_be_a_reference_is_refused(
    reference: AnnData, model: Pretrained, tmp_path: Path
) -> None:
    out = tmp_path / "index"
    reference.obs["nothing"] = np.nan
    reference.obs["one"] = "same"
    cases = [
        ({"label": "celltype"}, "no column 'celltype'; it has type"),
        ({"label": ()}, "label is empty"),
        ({"label": "nothing"}, "no value for any cell"),
        ({"keep": "colour"}, "'colour'"),
        ({"batch_key": "one"}, "at least two donors"),
    ]
    for arguments, message in cases:
        with pytest.raises(DataError, match=message):
            tl.build_reference(reference, out, model, **arguments)
    with pytest.raises(ConfigError, match="euclidean"):
        tl.build_reference(reference, out, model, metric="manhattan")
    with pytest.raises(DataError, match="at least 3"):
        tl.build_reference(reference[4:6].copy(), out, model)
    twice = reference.copy()
    twice.obs_names = ["same"] * 300
    with pytest.raises(DataError, match="not unique"):
        tl.build_reference(twice, out, model)
    assert not list(tmp_path.iterdir())
    tl.build_reference(reference, out, model)
    with pytest.raises(OutputExistsError, match="exists already"):
        tl.build_reference(reference, out, model)
    tl.build_reference(reference, out, model, overwrite=True)


def test_what_cannot_be_a_query_is_refused(
    reference: AnnData, model: Pretrained, index: Path, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match="0 rows"):
        tl.map_to_reference(reference[:0].copy(), index, model)
    strangers = reference.copy()
    strangers.var_names = [f"STRANGE{i}" for i in range(11)]
    with pytest.raises(GeneMatchError):
        tl.map_to_reference(strangers, index, model)
    with pytest.raises(DataError, match="has no label 'tissue'; it has cell_type"):
        tl.map_to_reference(reference, index, model, label="tissue")
    with pytest.raises(ConfigError, match="between 1 and the 240"):
        tl.map_to_reference(reference, index, model, k=241)
    with pytest.raises(ConfigError, match="effort is 0"):
        tl.map_to_reference(reference, index, model, effort=0)
    with pytest.raises(DataError, match="no reference index"):
        tl.map_to_reference(reference, tmp_path, model)
    with pytest.raises(DataError, match="no cell named 'nobody'"):
        tl.search(None, index, cells="nobody")
    with pytest.raises(DataError, match="No cell was named"):
        tl.search(None, index, cells=())
    assert not {name for name in reference.obs if name.startswith("map")}


def test_without_faiss_the_extra_is_named(
    reference: AnnData, model: Pretrained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cellfm.optional.find_spec", lambda _name: None)
    with pytest.raises(MissingDependencyError, match=r"cellfm\[index\]"):
        tl.build_reference(reference, tmp_path / "index", model)
    assert "faiss" in sys.modules
