"""What the audit needs to know of every image file, read once and kept."""

import hashlib
import os
import tempfile
import zipfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from covid_xray.data.audit.near_duplicates import THUMBNAIL, Hashes, traits
from covid_xray.data.images.grey import GreyImage, ImageError
from covid_xray.data.images.read import read_image
from covid_xray.data.parallel import map_files

_VERSION = 1
_FIELDS = {
    "pixels": np.dtype("S32"),
    "hash": np.dtype((np.uint64, 4)),
    "thumbnail": np.dtype((np.uint8, (THUMBNAIL, THUMBNAIL))),
    "width": np.dtype(np.int32),
    "height": np.dtype(np.int32),
    "reason": np.dtype("S300"),
}
_ROW = np.dtype(list(_FIELDS.items()))


class Fingerprints(NamedTuple):
    """Arrays by image; where ``reason`` is not empty, the image cannot be read and the others are zero.

    Attributes:
        pixels: Digest of the decoded pixels and their shape, 32 hexadecimal digits.
        hash: Perceptual hash (n, 4), uint64.
        thumbnail: Resized image (n, 32, 32), uint8.
        width: Columns.
        height: Rows.
        reason: Why the image cannot be read, UTF-8, or empty.
    """

    pixels: NDArray[np.bytes_]
    hash: Hashes
    thumbnail: NDArray[np.uint8]
    width: NDArray[np.int32]
    height: NDArray[np.int32]
    reason: NDArray[np.bytes_]


def fingerprint_files(files: Sequence[str], cache: Path | None = None, workers: int | None = None) -> Fingerprints:
    """Fingerprint every file, reading only those that are new or changed since the cache was written.

    Args:
        files: Image files.
        cache: Folder of the cache, made if missing; None: read every file. It holds 1.4 kB an image; a file is known by
            path, size and time of change. Unreadable files are tried anew each time. A damaged cache is made anew; one
            that cannot be written is left out.
        workers: Number of processes; None for what the machine has.
    """
    store = cache / f"fingerprints-v{_VERSION}.npz" if cache else None
    known_keys, known = _load(store)
    keys = np.array([_key(file) for file in files], dtype="S32")
    position = np.searchsorted(known_keys, keys)
    position[position == len(known_keys)] = 0
    hit = known_keys[position] == keys if len(known_keys) else np.zeros(len(keys), dtype=bool)
    rows = np.zeros(len(files), dtype=_ROW)
    rows[hit] = known[position[hit]]
    missing = np.flatnonzero(~hit).tolist()
    for index, row in zip(
        missing, map_files(fingerprint, [files[index] for index in missing], "auditing images", workers), strict=True
    ):
        rows[index] = row
    new = [index for index in missing if not rows["reason"][index]]
    if store and new:
        _save(store, np.concatenate([known_keys, keys[new]]), np.concatenate([known, rows[new]]))
    return Fingerprints(*(rows[name] for name in _FIELDS))


def fingerprint(file: str) -> NDArray[np.void]:
    """One row of the fields of `Fingerprints`."""
    row = np.zeros((), dtype=_ROW)
    try:
        image = read_image(file)
    except ImageError as error:
        row["reason"] = error.reason.encode("utf-8", "replace")
        return row
    row["pixels"] = pixel_digest(image)
    row["hash"], row["thumbnail"] = traits(image)
    row["height"], row["width"] = image.shape
    return row


def pixel_digest(image: GreyImage) -> str:
    """Digest of an image's pixels and shape, 32 hexadecimal digits."""
    digest = hashlib.sha256(repr(image.shape).encode())
    digest.update(np.ascontiguousarray(image).data)
    return digest.hexdigest()[:32]


def _key(file: str) -> str:
    try:
        # Not pathlib: there are a hundred thousand of them.
        status = os.stat(file)  # noqa: PTH116
        text = f"{os.path.abspath(file)}|{status.st_size}|{status.st_mtime_ns}"  # noqa: PTH100
    except (OSError, ValueError):
        text = f"{file}|gone"
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:32]


def _load(store: Path | None) -> tuple[NDArray[np.bytes_], NDArray[np.void]]:
    nothing = np.zeros(0, dtype="S32"), np.zeros(0, dtype=_ROW)
    if store is None or not store.is_file():
        return nothing
    try:
        with np.load(store, allow_pickle=False) as arrays:
            keys, rows = arrays["keys"], arrays["rows"]
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return nothing
    sound = rows.dtype == _ROW and len(keys) == len(rows) and bool((keys[1:] > keys[:-1]).all())
    return (keys, rows) if sound else nothing


def _save(store: Path, keys: NDArray[np.bytes_], rows: NDArray[np.void]) -> None:
    keys, order = np.unique(keys, return_index=True)
    try:
        store.parent.mkdir(parents=True, exist_ok=True)
        # A name of its own: several runs may save at once, and the last one wins.
        handle, draft = tempfile.mkstemp(dir=store.parent, suffix=".tmp")
        try:
            with os.fdopen(handle, "wb") as file:
                np.savez(file, keys=keys, rows=rows[order])
            Path(draft).replace(store)
        except OSError:
            Path(draft).unlink(missing_ok=True)
    except OSError:
        return


def reasons(fingerprints: Fingerprints, paths: Iterable[str]) -> dict[str, str]:
    """Why an image cannot be read, by path, of those that cannot."""
    return {
        path: reason.decode("utf-8", "ignore")
        for path, reason in zip(paths, fingerprints.reason, strict=True)
        if reason
    }
