import numpy as np
import pandas as pd
import pytest

from cellfm import pl
from cellfm.errors import DataError

pytest.importorskip("matplotlib")


@pytest.fixture
def table() -> pd.DataFrame:
    """Thirty screened genes, one far out, and ten more of the null."""
    rng = np.random.default_rng(0)
    n = 40
    frame = pd.DataFrame(
        {
            "gene": [f"G{i}" for i in range(n)],
            "screened": np.arange(n) < 30,
            "mean_expression": rng.uniform(0.1, 3, n),
            "effect": np.exp(rng.normal(size=n)),
            "goal": rng.normal(size=n),
        }
    )
    for name in ("null_effect", "z", "tail_q", "goal_null", "goal_z", "goal_tail_q"):
        frame[name] = np.where(frame["screened"], 0.5, np.nan)
    frame["goal_z"] = frame["goal"].where(frame["screened"])
    frame.loc[3, ["tail_q", "z"]] = 0.001, 9.0
    return frame


def names_of(axes) -> list[str]:
    return [text.get_text() for text in axes.texts]


def test_significant_genes_are_named_and_the_null_is_drawn(table):
    axes = pl.screen(table, score="effect")
    assert names_of(axes) == ["G3"]
    dots = {drawn.get_label(): np.asarray(drawn.get_offsets()) for drawn in axes.collections}
    assert [len(d) for d in dots.values()] == [10, 29, 1]
    np.testing.assert_allclose(
        dots["tail q ≤ 0.05 (1)"], table.loc[[3], ["mean_expression", "effect"]]
    )
    assert axes.get_yscale() == "log"
    assert "1 of 30 genes" in axes.get_title()


def test_goal_is_drawn_where_there_is_one_and_the_title_says_when_nothing_was_found(table):
    axes = pl.screen(table)
    assert "goal" in axes.get_ylabel()
    assert axes.get_yscale() == "linear"
    assert axes.get_title().startswith("none of 30 genes")
    order = table[table["screened"]].sort_values("goal_z", ascending=False)["gene"]
    assert set(names_of(axes)) <= {*order[:15], *order[-5:]}  # those without room are left out
    assert {order.iloc[0], order.iloc[-1]} <= set(names_of(axes))
    assert "effect" not in pl.screen(table.drop(columns=["goal", "screened"])).get_title()


def test_given_axes_are_used(table):
    axes = pl.screen(table)
    axes.clear()
    assert pl.screen(table, ax=axes) is axes


def test_other_tables_are_refused(table):
    with pytest.raises(DataError, match="no column effect, tail_q; it has gene"):
        pl.screen(table[["gene", "mean_expression"]])
    with pytest.raises(DataError, match="no column goal, goal_tail_q"):
        pl.screen(table.drop(columns=["goal", "goal_tail_q"]), score="goal")
    with pytest.raises(DataError, match="has no rows"):
        pl.screen(table[:0])
    with pytest.raises(DataError, match="score is 'p'"):
        pl.screen(table, score="p")
