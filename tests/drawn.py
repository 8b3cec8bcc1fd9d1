"""Reads the values in a figure, with the types that Matplotlib leaves open."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.container import Container
from matplotlib.image import AxesImage
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle


def xs(line: Line2D) -> list[float]:
    """The horizontal coordinates of a line."""
    return [float(x) for x in np.asarray(line.get_xdata())]


def ys(line: Line2D) -> list[float]:
    """The vertical coordinates of a line."""
    return [float(y) for y in np.asarray(line.get_ydata())]


def bars(drawn: Axes | Container) -> list[Rectangle]:
    """The bars of a plot or of one group in it."""
    found = []
    for bar in drawn.patches if isinstance(drawn, Axes) else drawn:
        assert isinstance(bar, Rectangle)
        found.append(bar)
    return found


def line_collections(*axes: Axes) -> list[LineCollection]:
    """The collections of a plot, which must all be lines."""
    found = []
    for collection in (collection for axis in axes for collection in axis.collections):
        assert isinstance(collection, LineCollection)
        found.append(collection)
    return found


def pixels(image: AxesImage) -> np.ndarray:
    """The values of an image."""
    array = image.get_array()
    assert array is not None
    return array
