"""Label columns, coarser labels, calibration and novelty."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from cellfm.errors import ConfigError, DataError
from cellfm.tl._confidence import (
    Mahalanobis,
    energy,
    expected_calibration_error,
    fit_temperature,
    knn_distance,
    label_energy,
    novelty_threshold,
    probability_threshold,
    softmax,
)
from cellfm.tl._labels import Parents, coarse_labels, encode, read_labels

PARENTS = Parents.from_pairs(
    [("CD4", "T"), ("CD8", "T"), ("T", "lymphocyte"), ("B", "lymphocyte"), ("NK", "lymphocyte")]
)


def obs(values: list[object]) -> pd.DataFrame:
    return pd.DataFrame({"type": pd.Series(values, dtype=object)})


def test_labels_are_coded_in_alphabetical_order() -> None:
    labels = read_labels(obs(["T", "B", np.nan, "T", "unknown", " ", None]), "type")
    assert labels.classes == ("B", "T")
    assert labels.code.tolist() == [1, 0, -1, 1, -1, -1, -1]
    assert labels.counts.tolist() == [1, 2]
    assert labels.n_missing == 4
    assert labels.strata.tolist() == ["T", "B", "", "T", "", "", ""]
    # The encoding belongs to the classes, not to the cells: a query without B keeps T = 1.
    assert encode(np.array(["T", "X"]), labels.classes).tolist() == [1, -1]


def test_several_labels_a_cell() -> None:
    labels = read_labels(obs(["T; naive", "B", np.nan, "naive;T"]), "type", separator=";")
    assert labels.classes == ("B", "T", "naive")
    assert labels.code.tolist() == [[0, 1, 1], [1, 0, 0], [-1, -1, -1], [0, 1, 1]]
    assert labels.strata.tolist() == ["T;naive", "B", "", "T;naive"]


@pytest.mark.parametrize(
    ("values", "message"),
    [([np.nan, "unknown"], "None of the 2 cells"), (["T", "T", np.nan], "one label only, 'T'")],
)
def test_useless_labels(values: list[object], message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_labels(obs(values), "type")


def test_missing_column() -> None:
    with pytest.raises(
        DataError, match=r"no column 'cell_type' in obs of the reference; it has type"
    ):
        read_labels(obs(["T", "B"]), "cell_type")


def test_finest_certain_label() -> None:
    classes = ("B", "CD4", "CD8", "other")
    probability = np.array(
        [
            [0.05, 0.9, 0.05, 0.0],  # certain
            [0.1, 0.45, 0.45, 0.0],  # T
            [0.45, 0.3, 0.25, 0.0],  # B is likeliest, but only a lymphocyte is certain
            [0.3, 0.2, 0.1, 0.4],  # nothing is
        ]
    )
    found = coarse_labels(probability, classes, PARENTS, threshold=0.7)
    assert found.tolist() == ["CD4", "T", "lymphocyte", "unknown"]
    # What stands above all classes says nothing.
    found = coarse_labels(probability[:, :3], classes[:3], PARENTS, threshold=0.7)
    assert found.tolist() == ["CD4", "T", "unknown", "unknown"]


def test_parent_files(tmp_path: Path) -> None:
    table = tmp_path / "parents.tsv"
    table.write_text("# child\tparent\nCD4\tT\nT\tlymphocyte\n")
    assert Parents.read(table).ancestors("CD4") == {"T", "lymphocyte"}
    obo = tmp_path / "cl.obo"
    obo.write_text(
        "format-version: 1.2\n\n[Term]\nid: CL:1\nname: cell\n\n[Term]\nid: CL:2\nname: T cell\nis_a: CL:1 ! cell\n\n"
        "[Term]\nid: CL:3\nname: old\nis_a: CL:1\nis_obsolete: true\n\n[Typedef]\nid: part_of\nis_a: CL:1\n\n"
        "[Term]\nid: CL:4\nname: CD4 T\nis_a: CL:2 {x=1} ! T cell\n"
    )
    parents = Parents.read(obo)
    assert parents.above == {"T cell": ("cell",), "CD4 T": ("T cell",)}
    assert parents.ancestors("CD4 T") == {"T cell", "cell"}


@pytest.mark.parametrize(
    ("text", "message"),
    [("CD4 T\n", "Line 1 of"), ("", "holds no child"), ("A\tB\nB\tA\n", "above itself")],
)
def test_bad_parent_files(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "parents.tsv"
    path.write_text(text)
    with pytest.raises(DataError, match=message):
        Parents.read(path)
    with pytest.raises(DataError, match="There is no file"):
        Parents.read(tmp_path / "none.tsv")


def test_parents_of_other_labels() -> None:
    with pytest.raises(DataError, match="None of the labels 'alpha'"):
        PARENTS.check(("alpha", "beta"))


def test_temperature_is_found() -> None:
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(20_000, 4)) * 2
    truth = np.array([rng.choice(4, p=row) for row in softmax(logits)])
    assert fit_temperature(3 * logits, truth) == pytest.approx(3, rel=0.05)
    flags = (rng.random(logits.shape) < 1 / (1 + np.exp(-logits))).astype(int)
    assert fit_temperature(3 * logits, flags) == pytest.approx(3, rel=0.05)
    with pytest.raises(DataError, match="0 validation cells"):
        fit_temperature(logits[:0], truth[:0])


def test_calibration_error() -> None:
    rng = np.random.default_rng(0)
    probability = rng.random(50_000)
    calibrated = rng.random(50_000) < probability
    assert expected_calibration_error(probability, calibrated) < 0.01
    sure = np.full(1000, 0.9)
    half = np.arange(1000) % 2 == 0
    assert expected_calibration_error(sure, half) == pytest.approx(0.4)
    with pytest.raises(DataError, match="0 cells"):
        expected_calibration_error(sure[:0], half[:0])


def test_distances_and_energies() -> None:
    reference = np.array([[0.0, 0.0], [3.0, 0.0], [0.0, 4.0]])
    query = np.array([[0.0, 0.0], [30.0, 40.0]])
    exact = np.sort(np.linalg.norm(query[:, None] - reference, axis=2), axis=1)
    assert knn_distance(reference, query, k=2) == pytest.approx(exact[:, :2].mean(axis=1))
    assert knn_distance(reference, query, k=9) == pytest.approx(exact.mean(axis=1))
    with pytest.raises(DataError, match="0 reference cells"):
        knn_distance(reference[:0], query, k=1)
    logits = np.array([[1000.0, 0.0], [0.0, 0.0]])
    assert energy(logits) == pytest.approx([-1000.0, -np.log(2)])
    assert label_energy(logits) == pytest.approx([-1000.0 - np.log(2), -2 * np.log(2)])


def test_mahalanobis_follows_the_shared_covariance() -> None:
    rng = np.random.default_rng(0)
    code = np.repeat([0, 1], 2000)
    x = rng.normal(size=(4000, 2)) * [1.0, 5.0] + np.array([[0, 0], [10, 0]])[code]
    found = Mahalanobis.fit(x, code).distance(np.array([[0.0, 10.0], [5.0, 0.0], [10.0, 0.0]]))
    # Two deviations along the wide axis, five along the narrow one; the small ridge takes a little off.
    assert found[0] == pytest.approx(2, rel=0.1)
    assert found[1] == pytest.approx(5, rel=0.12)
    assert found[2] < 0.2


def test_thresholds() -> None:
    score = np.arange(100.0)
    assert (score > novelty_threshold(score)).mean() <= 0.05
    with pytest.raises(ConfigError, match="quantile"):
        novelty_threshold(score, quantile=0)
    probability = np.linspace(0.5, 1, 101)
    assert probability_threshold(probability, np.ones(101, bool)) == 0
    found = probability_threshold(probability, probability >= 0.6)
    kept = probability >= found
    assert (probability[kept] >= 0.6).mean() >= 0.95
    assert kept.sum() == int(81 / 0.95)
    # Labels that are never right: at most half are given up.
    hopeless = probability_threshold(probability, np.zeros(101, bool))
    assert (probability >= hopeless).mean() == pytest.approx(0.5, abs=0.01)
