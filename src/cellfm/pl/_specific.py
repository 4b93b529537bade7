"""Lists of genes of types against shuffled labels."""

from typing import TYPE_CHECKING, Protocol

import numpy as np

from cellfm.errors import DataError
from cellfm.optional import require
from cellfm.pl._axes import new_axes

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from numpy.typing import NDArray

N_BINS = 20


class Enriched(Protocol):
    """What is drawn; `cellfm.tl.specific_genes` returns it."""

    @property
    def observed(self) -> float:
        """Share of differentially expressed genes among those listed."""

    @property
    def p(self) -> float:
        """Share of shuffled labellings, and one, that do as well."""

    @property
    def shuffled(self) -> "NDArray[np.float64]":
        """That share under each shuffled labelling."""

    @property
    def comparison(self) -> "pd.DataFrame":
        """A row for each way to rank genes, with ``precision``."""


def specific_genes(found: Enriched, *, ax: "Axes | None" = None) -> "Axes":
    """Draw the share of differentially expressed genes among those listed, over that under shuffled labels and by other ways to rank.

    Parameters
    ----------
    found
        From `cellfm.tl.specific_genes`.
    ax
        Axes to draw into; new ones on a figure of their own by default.

    Returns
    -------
    The axes; save them with ``ax.figure.savefig("enrichment.png")``.

    Raises
    ------
    DataError
        No list says anything, so that there is no share.
    MissingDependencyError
        matplotlib is not installed.

    Examples
    --------
    >>> cellfm.pl.specific_genes(cellfm.tl.specific_genes(cells, "annotator"))  # doctest: +SKIP
    """
    require("matplotlib")
    if not np.isfinite(found.observed):
        msg = "There is no share of differentially expressed genes to draw: no type has twice as many candidates as are listed. List fewer genes (n_listed)."
        raise DataError(msg)
    ax = new_axes(6.4, 4.2) if ax is None else ax
    n = len(found.shuffled)
    ax.hist(
        found.shuffled,
        bins=N_BINS,
        color="lightgray",
        label=f"shuffled labels ({n:,}, p = {found.p:.2g})",
    )
    shares = found.comparison["precision"]
    styles = ["-", "--", "-.", ":"]
    for number, (name, share) in enumerate(shares.items()):
        color = "black" if number == 0 else f"C{number - 1}"
        width = 2.0 if number == 0 else 1.2
        ax.axvline(share, color=color, lw=width, ls=styles[number % len(styles)], label=f"{name} ({share:.1%})")  # fmt: skip
    ax.set(
        xlabel="share of differentially expressed genes among those listed, mean over types",
        ylabel="shuffled labellings",
        xlim=(0, min(1.0, 1.1 * max(shares.max(), found.shuffled.max()))),
    )
    ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=2, frameon=False, fontsize=8)
    return ax
