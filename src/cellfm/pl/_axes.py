"""Axes on a figure of their own: nothing of pyplot's global state is touched."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def new_axes(width: float, height: float) -> "Axes":
    """Return axes on a new figure.

    Parameters
    ----------
    width, height
        Of the figure, in inches.
    """
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained").subplots()
