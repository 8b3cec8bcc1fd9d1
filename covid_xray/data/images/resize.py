"""Resizes grey images. Apart from the augmentation, so that the cache and the audit need no albumentations."""

import cv2
import numpy as np

from covid_xray.data.images.grey import GreyImage


def resize(image: GreyImage, size: int) -> GreyImage:
    """Resize both sides to ``size``, ignoring the aspect ratio: area average if both shrink, else bilinear."""
    if image.shape == (size, size):
        return image
    shrinks = min(image.shape) > size
    return np.asarray(cv2.resize(image, (size, size), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR))
