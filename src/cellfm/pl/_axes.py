"""New axes: shown below the cell in a notebook, on a figure of their own elsewhere."""

import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def new_axes(width: float, height: float) -> "Axes":
    """Return axes on a new figure.

    In a notebook the figure is one of pyplot's, which shows it below the cell and forgets it; elsewhere nothing of pyplot's
    global state is touched, so that figures of a script do not pile up.

    Parameters
    ----------
    width, height
        Of the figure, in inches.
    """
    if _in_notebook():
        from matplotlib import pyplot as plt

        return plt.figure(figsize=(width, height), layout="constrained").subplots()
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained").subplots()


def _in_notebook() -> bool:
    """Whether IPython runs this code, without loading it to find out."""
    ipython = sys.modules.get("IPython")
    return ipython is not None and ipython.get_ipython() is not None
