import numpy as np
import pytest

from cellfm.errors import DataError
from cellfm.view import layout
from cellfm.view.jobs import Stopped


def clouds(n: int, seed: int = 0) -> np.ndarray:
    """Three clouds far apart; cell i is in cloud i % 3."""
    rng = np.random.default_rng(seed)
    centre = 20 * np.eye(8, dtype=np.float32)[:3]
    return (centre[np.arange(n) % 3] + rng.normal(size=(n, 8))).astype(np.float32)


def apart(points: np.ndarray) -> bool:
    """Whether each point is nearer to the middle of its own cloud than to the others."""
    kind = np.arange(len(points)) % 3
    middle = np.array([points[kind == k].mean(axis=0) for k in range(3)])
    return bool((((points[:, None] - middle) ** 2).sum(-1).argmin(1) == kind).all())


def quiet(stage: str, done: int, total: int) -> None:
    pass


def test_principal_components():
    states = clouds(60)
    states[4] = np.nan
    found = layout.pca_layout(states).points
    assert np.isnan(found[4]).all()
    there = np.arange(60) != 4
    centred = (states[there] - states[there].mean(axis=0)).astype(float)
    left, size, _ = np.linalg.svd(centred, full_matrices=False)
    np.testing.assert_allclose(np.abs(found[there]), np.abs(left * size)[:, :2], atol=1e-3)


def test_few_cells_are_not_laid_out_by_umap():
    found = layout.umap_layout(clouds(layout.LEAST_CELLS - 1), quiet)
    assert "UMAP needs at least 30 cells" in found.note
    assert np.isfinite(layout.umap_layout(clouds(1), quiet).points).all()


def test_no_states_are_refused():
    with pytest.raises(DataError, match="No cell has a state"):
        layout.umap_layout(np.full((50, 4), np.nan, np.float32), quiet)


@pytest.mark.filterwarnings("ignore:Tensorflow not installed:ImportWarning")
def test_umap_keeps_clouds_apart_and_says_how_far_it_is(monkeypatch):
    pytest.importorskip("umap")
    stages = {}
    states = clouds(90)
    states[7] = np.nan
    found = layout.umap_layout(states, lambda s, done, total: stages.__setitem__(s, (done, total)))
    assert np.isnan(found.points[7]).all()
    there = np.isfinite(found.points).all(axis=1)
    assert there.sum() == 89
    points = np.where(there[:, None], found.points, found.points[np.arange(90) % 3 == 1][0])
    assert apart(points)
    assert stages["laying out by UMAP"][1] == 500
    assert {"finding neighbours", "preparing the layout"} <= set(stages)
    # the same call, the same picture
    np.testing.assert_array_equal(layout.umap_layout(states, quiet).points, found.points)
    # more cells than are fitted: the others stand amid their neighbours
    monkeypatch.setattr(layout, "MOST_FITTED", 45)
    part = layout.umap_layout(clouds(90), quiet)
    assert apart(part.points)
    assert part.note.startswith("UMAP of 45 cells drawn at random")

    def stop(stage: str, done: int, total: int) -> None:
        if stage == "laying out by UMAP":
            raise Stopped

    with pytest.raises(Stopped):
        layout.umap_layout(clouds(90), stop)
