"""Resizes grey images. Apart from the augmentation, so that the cache and the audit need no albumentations."""

import cv2
import numpy as np
from numpy.typing import NDArray

from covid_xray.data.images.grey import GreyImage


def resize(image: GreyImage, size: int) -> GreyImage:
    """Resize both sides to ``size``, ignoring the aspect ratio: area average if both shrink, else bilinear."""
    if image.shape == (size, size):
        return image
    shrinks = min(image.shape) > size
    return np.asarray(cv2.resize(image, (size, size), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR))


def shrink(image: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    """Shrink an image (h, w) or (h, w, 3) by area average so that its longer side is at most ``side`` pixels."""
    height, width = image.shape[:2]
    scale = side / max(height, width)
    if scale >= 1:
        return image
    size = (max(1, round(scale * width)), max(1, round(scale * height)))
    return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), dtype=np.uint8)
