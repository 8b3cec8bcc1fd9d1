"""Crops of the lungs: by one frame for all images, or by a box or a mask of each image.

Each cropped image is written once, and the records then name its file. So everything that opens images sees the crops:
the audit, the cache, training and evaluation.
"""

import hashlib
import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import pandas as pd

from covid_xray.data.images.grey import GreyImage, ImageError
from covid_xray.data.images.read import read_image, write_png
from covid_xray.data.parallel import map_files
from covid_xray.errors import UserError
from covid_xray.files import atomic_write, write_failure

Region = tuple[int, int, int, int]  # first and last column, first and last row, without the last ones


class Crop(Protocol):
    """Which part of an image remains."""

    @property
    def folder(self) -> str:
        """Where cropped images are kept."""
        ...

    def region(self, height: int, width: int, row: Mapping[str, str]) -> Region:
        """The part of an image of this size, whose row of the records is given."""
        ...

    def key(self, row: Mapping[str, str]) -> str:
        """All that the region depends on besides the image; a changed key has the image cropped again."""
        ...


@dataclass(frozen=True)
class FrameCrop:
    """The same frame is cut off every image: shares of the width and height, from 0 to below 1.

    Raises:
        UserError: If a share is out of range, or nothing remains.
    """

    left: float = 0.125
    right: float = 0.125
    top: float = 0.125
    bottom: float = 0.125
    folder: str = "data/cropped"

    def __post_init__(self) -> None:
        """Check the shares."""
        for name in ("left", "right", "top", "bottom"):
            _check_share(f"crop.{name}", getattr(self, name))
        for one, two in (("left", "right"), ("top", "bottom")):
            if getattr(self, one) + getattr(self, two) >= 1:
                raise UserError(f"crop.{one} and crop.{two} leave nothing of the image; their sum must be below 1")

    def region(self, height: int, width: int, row: Mapping[str, str]) -> Region:
        """What remains; at least one pixel."""
        first, top = int(self.left * width), int(self.top * height)
        return (
            first,
            max(first + 1, round((1 - self.right) * width)),
            top,
            max(top + 1, round((1 - self.bottom) * height)),
        )

    def key(self, row: Mapping[str, str]) -> str:
        """The shares."""
        return f"frame {self.left} {self.right} {self.top} {self.bottom}"


@dataclass(frozen=True)
class _ColumnCrop:
    column: str
    margin: float = 0.05
    folder: str = "data/cropped"

    def __post_init__(self) -> None:
        """Check the margin."""
        _check_share("crop.margin", self.margin)

    def _with_margin(self, box: tuple[float, float, float, float], height: int, width: int) -> Region:
        left, top, right, bottom = box
        x, y = self.margin * (right - left), self.margin * (bottom - top)
        return (
            max(0, math.floor(left - x)),
            min(width, math.ceil(right + x)),
            max(0, math.floor(top - y)),
            min(height, math.ceil(bottom + y)),
        )


@dataclass(frozen=True)
class BoxCrop(_ColumnCrop):
    """The box that a column of the records gives: left, top, right and bottom in pixels of the image.

    Args:
        column: Name of the column; the numbers are separated by blanks or commas.
        margin: Share of the box's width and height that is added on each side, from 0 to below 1.
        folder: Where cropped images are kept.

    Raises:
        UserError: If the margin is out of range.
    """

    column: str = "box"

    def region(self, height: int, width: int, row: Mapping[str, str]) -> Region:
        """The box with its margin, inside the image."""
        try:
            left, top, right, bottom = (float(value) for value in re.split(r"[\s,]+", row[self.column].strip()))
        except ValueError:
            left = right = math.nan
        if not (0 <= left < right <= width and 0 <= top < bottom <= height):
            raise UserError(
                f"the {self.column} of {row['path']} must be left, top, right and bottom within its {width} x {height} "
                f"pixels, not {row[self.column]!r}; correct it"
            )
        return self._with_margin((left, top, right, bottom), height, width)

    def key(self, row: Mapping[str, str]) -> str:
        """The box and the margin."""
        return f"box {row[self.column]} {self.margin}"


@dataclass(frozen=True)
class MaskCrop(_ColumnCrop):
    """The box around the bright pixels of a mask, such as one of the lungs.

    Args:
        column: Column of the records with the mask's file, absolute or relative to the folder of the image. A mask may
            have another size than its image.
        margin: Share of the box's width and height that is added on each side, from 0 to below 1.
        folder: Where cropped images are kept.

    Raises:
        UserError: If the margin is out of range.
    """

    column: str = "mask"

    def region(self, height: int, width: int, row: Mapping[str, str]) -> Region:
        """The box with its margin, inside the image."""
        if not row[self.column]:
            raise UserError(f"{row['path']} has no {self.column}; add it, or leave the image out")
        mask = read_image(self._file(row)) > 127
        if not mask.any():
            raise UserError(f"the {self.column} of {row['path']} is black ({row[self.column]}); correct it")
        rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        y, x = height / mask.shape[0], width / mask.shape[1]
        box = columns[0] * x, rows[0] * y, (columns[-1] + 1) * x, (rows[-1] + 1) * y
        return self._with_margin(box, height, width)

    def key(self, row: Mapping[str, str]) -> str:
        """The mask and the margin."""
        return f"mask {_version(self._file(row))} {self.margin}"

    def _file(self, row: Mapping[str, str]) -> Path:
        return Path(row["file"]).parent / row[self.column]


def crop_image(image: GreyImage, crop: Crop, row: Mapping[str, str]) -> GreyImage:
    """The part of an image (height, width), uint8, that a crop leaves."""
    height, width = image.shape
    first, last, top, bottom = crop.region(height, width, row)
    return np.ascontiguousarray(image[top:bottom, first:last])


def crop_records(records: pd.DataFrame, crop: Crop, workers: int | None = None) -> pd.DataFrame:
    """Crop every image, or find it in the folder of the crop, and return the records with the new files.

    A file that cannot be read stays as it is; the audit names it.

    Args:
        records: The table of images.
        crop: What remains of each image.
        workers: Number of threads; None for the number of cores, at most 8.

    Raises:
        UserError: If the records lack the crop's column, a box or mask is wrong, or the folder cannot be written.
    """
    column = getattr(crop, "column", None)
    if column is not None and column not in records:
        raise UserError(f"crop.column={column!r} is no column of the data; it has {', '.join(records.columns)}")
    folder = Path(crop.folder).absolute()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise write_failure(folder, error) from None
    rows = records.to_dict("records")

    def cropped(number: str) -> str:
        row = {str(key): str(value) for key, value in rows[int(number)].items()}
        text = f"{_version(Path(row['file']))}|{crop.key(row)}"
        file = folder / f"{hashlib.sha256(text.encode('utf-8', 'surrogatepass')).hexdigest()[:32]}.png"
        if not file.is_file():
            try:
                image = read_image(row["file"])
            except ImageError:
                return row["file"]
            with atomic_write(file) as draft:
                write_png(draft, crop_image(image, crop, row))
        return str(file)

    numbers = [str(number) for number in range(len(rows))]
    found = records.assign(file=list(map_files(cropped, numbers, "cropping images", workers)))
    found.attrs["crop"] = {"_target_": f"{type(crop).__module__}.{type(crop).__qualname__}", **_settings(crop)}
    return found


def _settings(crop: Crop) -> dict[str, object]:
    return asdict(crop) if isinstance(crop, FrameCrop | BoxCrop | MaskCrop) else dict(vars(crop))


def _version(file: Path) -> str:
    """The place, size and time of a file; its place alone if it is missing."""
    try:
        status = file.stat()
    except (OSError, ValueError):
        return str(file.absolute())
    return f"{file.absolute()}|{status.st_size}|{status.st_mtime_ns}"


def _check_share(key: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1:
        raise UserError(f"{key} must be at least 0 and below 1, not {value!r}")
