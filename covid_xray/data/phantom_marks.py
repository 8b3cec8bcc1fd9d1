"""Marks of the source on phantoms: what differs between hospitals and has nothing to do with the disease."""

import cv2
import numpy as np

from covid_xray.data.images.grey import GreyImage

SOURCES = ("hospital-1", "hospital-2", "hospital-3")  # the source of each class, in the order of the classes
KINDS = ("marker", "frame", "exposure", "resolution", "aspect")


def draw_mark(image: GreyImage, kind: str, source: int, rng: np.random.Generator) -> GreyImage:
    """Copy an image (size, size) and draw the mark of a source.

    - ``marker``: a white disc, horizontal bar or vertical bar in a random upper corner, in the outer eighth.
    - ``frame``: a black, grey or white frame of 4 % of the side.
    - ``exposure``: gamma 0.6 and no noise, gamma 1 and noise 0.03, or gamma 1.6 and noise 0.06 (white is 1).
    - ``resolution``: details of all sizes, of at least two pixels, or of at least four pixels.
    - ``aspect``: the whole image, without a tenth at the left and right, or without a tenth at the top and bottom.

    Markers and frames are outside the lungs. The other kinds change the lungs too.

    Args:
        image: Grey image (size, size), uint8.
        kind: One of `KINDS`.
        source: Number of the source in `SOURCES`.
        rng: Generator of positions and noise.

    Returns:
        The image, uint8; of another shape for ``aspect``.
    """
    marked, size = image.copy(), len(image)
    if kind == "marker":
        side, edge = max(3, round(0.09 * size)), max(1, size // 8)
        top, left = rng.integers(0, max(1, edge - side), 2, endpoint=True)
        left = left if rng.random() < 0.5 else size - side - left
        rows, columns = np.mgrid[:side, :side] - (side - 1) / 2
        glyphs = (np.hypot(rows, columns) <= side / 2, np.abs(rows) <= side / 6, np.abs(columns) <= side / 6)
        marked[top : top + side, left : left + side][glyphs[source]] = 255
    elif kind == "frame":
        width = max(1, round(0.04 * size))
        inner = marked[width:-width, width:-width].copy()
        marked[:] = (0, 128, 255)[source]
        marked[width:-width, width:-width] = inner
    elif kind == "exposure":
        gamma, noise = ((0.6, 0.0), (1.0, 0.03), (1.6, 0.06))[source]
        values = (image / 255) ** gamma + noise * rng.normal(size=image.shape)
        marked = np.asarray(np.clip(values, 0, 1) * 255, dtype=np.uint8)
    elif kind == "resolution" and source > 0:
        small = (size // (2 * source),) * 2
        reduced = cv2.resize(image, small, interpolation=cv2.INTER_AREA)
        marked = np.asarray(cv2.resize(reduced, (size, size), interpolation=cv2.INTER_LINEAR), dtype=np.uint8)
    elif kind == "aspect" and source > 0:
        cut = size // 10
        marked = np.ascontiguousarray(image[:, cut:-cut] if source == 1 else image[cut:-cut])
    return marked
