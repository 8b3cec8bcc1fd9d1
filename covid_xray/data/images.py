"""Reading one image file as 8-bit grey."""

from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from covid_xray.errors import UserError

GreyImage = NDArray[np.uint8]
EXTENSIONS = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp")


def read_image(path: str | Path) -> GreyImage:
    """Read an image file as grey, uint8, (height, width), upright (EXIF rotation applied).

    Colour is turned to luma; 16-bit files are scaled to 8 bits.

    Raises:
        UserError: If the file is missing or no image can be decoded from it.
    """
    try:
        data = np.fromfile(path, dtype=np.uint8)
    except OSError as error:
        raise UserError(f"image {path} cannot be read ({error.strerror or error}); mend or remove it") from None
    image = cv2.imdecode(data, cv2.IMREAD_GRAYSCALE) if data.size else None
    if image is None:
        raise UserError(f"image {path} cannot be decoded; mend or remove it")
    return np.asarray(image, dtype=np.uint8)


def write_png(path: Path, image: GreyImage) -> None:
    """Write a grey image as PNG."""
    cv2.imwrite(str(path), image)
