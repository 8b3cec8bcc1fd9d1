"""Figures of X-rays."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from covid_xray.plots.figure import PlainFigure


def batch_figure(images: npt.ArrayLike, titles: Sequence[str], columns: int = 4) -> Figure:
    """Grid of grey images with a title each.

    Args:
        images: Grey images (n, h, w) in [0, 1], or uint8.
        titles: Title of every image; the side in pixels is added.
        columns: Images in a row.
    """
    rows = -(-len(titles) // columns)
    figure = PlainFigure(figsize=(2.2 * columns, 2.4 * rows), layout="constrained")
    FigureCanvasAgg(figure)
    axes = list(figure.subplots(rows, columns, squeeze=False).flat)
    for axis in axes:
        axis.axis("off")
    for axis, image, title in zip(axes, np.asarray(images), titles, strict=False):
        axis.imshow(image, cmap="gray", vmin=0, vmax=255 if image.dtype == np.uint8 else 1)
        axis.set_title(f"{title}, {image.shape[-1]} px", fontsize=8)
    return figure
