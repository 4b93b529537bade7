"""Programs × groups as a picture."""

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData

from cellfm import pl
from cellfm.errors import DataError


@pytest.fixture
def scored() -> AnnData:
    rng = np.random.default_rng(0)
    scores = rng.normal(size=(9, 3)).astype(np.float32)
    scores[:, 2] = np.nan
    obs = pd.DataFrame({"type": pd.Categorical([*"aabbbbaa", None], categories=list("cba"))})
    obs.index = [f"cell{i}" for i in range(9)]
    adata = AnnData(np.ones((9, 1), np.float32), obs=obs, obsm={"X_programs": scores})
    adata.uns["cellfm"] = {"X_programs": {"names": np.array(["0 LONG" + "G" * 60, "1", "2"])}}
    return adata


def test_means_are_drawn_and_changes_marked(scored: AnnData) -> None:
    axes = pl.programs(scored, "type")
    drawn = np.asarray(axes.images[0].get_array(), float)
    scores = scored.obsm["X_programs"][:8].astype(float)  # the ninth cell has no type
    z = (scores - scores.mean(axis=0)) / scores.std(axis=0)
    np.testing.assert_allclose(drawn[:2, 0], z[2:6].mean(axis=0)[:2], rtol=1e-5)
    assert [text.get_text() for text in axes.get_xticklabels()] == ["b (4)", "a (4)"]
    names = [text.get_text() for text in axes.get_yticklabels()]
    assert len(names[0]) == 48
    assert names[1:] == ["1", "2"]
    low, high = axes.images[0].get_clim()
    assert low == -high
    changes = pd.DataFrame({"group": ["a", "a"], "program": [0, 1], "q": [0.01, 0.2]})
    marked = pl.programs(scored, "type", changes=changes)
    assert [text.get_position() for text in marked.texts] == [(1, 0)]


def test_what_cannot_be_drawn_is_said(scored: AnnData) -> None:
    with pytest.raises(DataError, match="no column 'kind'"):
        pl.programs(scored, "kind")
    with pytest.raises(DataError, match=r"no scores of programs in obsm\['other'\]"):
        pl.programs(scored, "type", key="other")
    scored.obs["type"] = None
    with pytest.raises(DataError, match="has no entries"):
        pl.programs(scored, "type")
