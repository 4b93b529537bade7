import pandas as pd
import pytest

from cellfm import pl
from cellfm.errors import DataError

pytest.importorskip("matplotlib")
TABLE = pd.DataFrame(
    {
        "source": ["SPI1", "SPI1", "CEBPA"],
        "target": ["LYZ", "CD14", "SPI1"],
        "score": [0.9, 0.5, 0.7],
        "pearson": [0.4, -0.1, 0.2],
        "gene": "SPI1",
    }
)


def test_sources_are_left_and_targets_right() -> None:
    axes = pl.network(TABLE)
    place = {text.get_text(): text.get_position()[0] for text in axes.texts if text.get_text()}
    assert place["CEBPA"] < place["SPI1"] == 0 < min(place["LYZ"], place["CD14"])
    assert axes.get_title() == "1 sources → SPI1 → 2 targets"
    arrows = [text.arrow_patch for text in axes.texts if not text.get_text()]
    assert len(arrows) == 3
    widths = sorted(arrow.get_linewidth() for arrow in arrows)
    assert widths[0] < widths[1] < widths[2]
    assert sum(arrow.get_linestyle() == "--" for arrow in arrows) == 1
    axes.figure.canvas.draw()


def test_what_cannot_be_drawn() -> None:
    with pytest.raises(DataError, match="no column gene"):
        pl.network(TABLE.drop(columns="gene"))
    with pytest.raises(DataError, match="has no pairs"):
        pl.network(TABLE.head(0))
