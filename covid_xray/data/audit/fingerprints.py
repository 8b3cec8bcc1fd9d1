"""Fingerprints of image files: what the audit needs of every image, read once and cached."""

import contextlib
import hashlib
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from covid_xray.data.audit.near_duplicates import (
    MIN_EVEN_CORRELATION,
    THUMBNAIL,
    Hashes,
    Pairs,
    evened,
    find_near_duplicates,
    reduced,
    traits,
)
from covid_xray.data.images.grey import GreyImage, ImageError, read_bytes
from covid_xray.data.images.read import decode_image
from covid_xray.data.parallel import map_files
from covid_xray.errors import UserError
from covid_xray.files import atomic_write, waiting_lock

_VERSION = 4  # to be raised when `read_image` gives other pixels, or `traits` another hash
_SAVE_SECONDS = 60.0
_FIELDS = {
    "sha256": np.dtype("S64"),
    "pixels": np.dtype("S32"),
    "hash": np.dtype((np.uint64, 4)),
    "thumbnail": np.dtype((np.uint8, (THUMBNAIL, THUMBNAIL))),
    "even_hash": np.dtype((np.uint64, 4)),
    "even_thumbnail": np.dtype((np.uint8, (THUMBNAIL, THUMBNAIL))),
    "width": np.dtype(np.int32),
    "height": np.dtype(np.int32),
    "reason": np.dtype("S300"),
}
_ROW = np.dtype(list(_FIELDS.items()))


class Fingerprints(NamedTuple):
    """One entry per image; where ``reason`` is not empty, the image cannot be read and the other arrays are zero.

    Attributes:
        sha256: Digest of the file, 64 hexadecimal digits.
        pixels: Digest of the decoded pixels and their shape, 32 hexadecimal digits.
        hash: Perceptual hash (n, 4), uint64.
        thumbnail: Resized image (n, 32, 32), uint8.
        even_hash: Perceptual hash of the evened image (n, 4), uint64.
        even_thumbnail: The evened image (n, 32, 32), uint8.
        width: Columns.
        height: Rows.
        reason: Why the image cannot be read, UTF-8, or empty.
    """

    sha256: NDArray[np.bytes_]
    pixels: NDArray[np.bytes_]
    hash: Hashes
    thumbnail: NDArray[np.uint8]
    even_hash: Hashes
    even_thumbnail: NDArray[np.uint8]
    width: NDArray[np.int32]
    height: NDArray[np.int32]
    reason: NDArray[np.bytes_]

    def take(self, rows: NDArray[np.int64]) -> "Fingerprints":
        """The entries at some rows."""
        fields: Iterable[Any] = self
        return Fingerprints(*(values[rows] for values in fields))


def fingerprint_files(
    files: Sequence[str],
    cache: Path | None = None,
    workers: int | None = None,
    keep: Callable[[str, GreyImage], None] | None = None,
) -> Fingerprints:
    """Fingerprint every file; read only files that are new or changed since the cache was written.

    Several processes may ask at once: one reads, the others wait and load the cache.

    Args:
        files: Image files.
        cache: Folder of the cache, made if missing; None: read every file. The cache holds 2.5 kB per image and
            knows a file by path, size and modification time. It is saved every minute. Unreadable files are tried
            again each time. A damaged cache is made again; a cache that cannot be written is not used.
        workers: Number of threads; None for the number of cores, at most 8.
        keep: Called with each file that is read and its image, from several threads.
    """
    with _locked(cache):
        return _fingerprint_files(files, cache / f"fingerprints-v{_VERSION}.npz" if cache else None, workers, keep)


def _fingerprint_files(
    files: Sequence[str], store: Path | None, workers: int | None, keep: Callable[[str, GreyImage], None] | None
) -> Fingerprints:
    known_keys, known = _load(store)
    keys = np.array([_key(file) for file in files], dtype="S32")
    position = np.searchsorted(known_keys, keys)
    position[position == len(known_keys)] = 0
    hit = known_keys[position] == keys if len(known_keys) else np.zeros(len(keys), dtype=bool)
    rows = np.zeros(len(files), dtype=_ROW)
    rows[hit] = known[position[hit]]
    missing = np.flatnonzero(~hit).tolist()
    read: list[int] = []
    saved_at = time.monotonic()

    def save() -> None:
        if store and read:
            _save(store, np.concatenate([known_keys, keys[read]]), np.concatenate([known, rows[read]]))

    found = map_files(lambda file: fingerprint(file, keep), [files[i] for i in missing], "reading images", workers)
    try:
        for index, row in zip(missing, found, strict=True):
            rows[index] = row
            if not row["reason"]:
                read.append(index)
            if time.monotonic() - saved_at > _SAVE_SECONDS:
                save()
                saved_at = time.monotonic()
    finally:
        save()
    return Fingerprints(*(rows[name] for name in _FIELDS))


def fingerprint(file: str, keep: Callable[[str, GreyImage], None] | None = None) -> NDArray[np.void]:
    """One row of the fields of `Fingerprints`; ``keep`` gets the file and its image."""
    row = np.zeros((), dtype=_ROW)
    try:
        data = read_bytes(file)
        image = decode_image(data, file)
    except ImageError as error:
        row["reason"] = error.reason.encode("utf-8", "replace")
        return row
    row["sha256"], row["pixels"] = hashlib.sha256(data).hexdigest(), pixel_digest(image)
    small = reduced(image)
    row["hash"], row["thumbnail"] = traits(small)
    row["even_hash"], row["even_thumbnail"] = traits(evened(small))
    row["height"], row["width"] = image.shape
    if keep is not None:
        keep(file, image)
    return row


def near_duplicates(found: Fingerprints) -> Pairs:
    """Sorted pairs of images that look alike, as they are or evened; see `find_near_duplicates`."""
    pairs = find_near_duplicates(found.hash, found.thumbnail)
    even = find_near_duplicates(found.even_hash, found.even_thumbnail, min_correlation=MIN_EVEN_CORRELATION)
    return np.unique(np.concatenate([pairs, even]), axis=0)


@contextlib.contextmanager
def _locked(folder: Path | None) -> Iterator[None]:
    """Hold the lock of a cache folder; without a folder that can be written, hold none."""
    with contextlib.ExitStack() as stack:
        if folder is not None:
            with contextlib.suppress(OSError):
                folder.mkdir(parents=True, exist_ok=True)
                stack.enter_context(waiting_lock(folder / "fingerprints.lock", "reads images"))
        yield


def pixel_digest(image: GreyImage) -> str:
    """Digest of an image's pixels and shape, 32 hexadecimal digits."""
    digest = hashlib.sha256(repr(image.shape).encode())
    digest.update(np.ascontiguousarray(image).data)
    return digest.hexdigest()[:32]


def _key(file: str) -> str:
    try:
        # Not pathlib, which is slow for 100,000 files.
        status = os.stat(file)  # noqa: PTH116
        text = f"{os.path.abspath(file)}|{status.st_size}|{status.st_mtime_ns}"  # noqa: PTH100
    except (OSError, ValueError):
        text = f"{file}|gone"
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:32]


def _load(store: Path | None) -> tuple[NDArray[np.bytes_], NDArray[np.void]]:
    nothing = np.zeros(0, dtype="S32"), np.zeros(0, dtype=_ROW)
    try:
        if store is None or not store.is_file():
            return nothing
        with np.load(store, allow_pickle=False) as arrays:
            keys, rows = arrays["keys"], arrays["rows"]
        sound = rows.dtype == _ROW and keys.shape == rows.shape and bool((keys[1:] > keys[:-1]).all())
    except Exception:  # NumPy and zipfile raise nearly any exception; a damaged cache is made again
        return nothing
    return (keys, rows) if sound else nothing


def _save(store: Path, keys: NDArray[np.bytes_], rows: NDArray[np.void]) -> None:
    keys, order = np.unique(keys, return_index=True)
    with contextlib.suppress(OSError, UserError):  # a full disk: the images are read again next time
        store.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(store) as draft, draft.open("wb") as file:
            np.savez(file, keys=keys, rows=rows[order])


def reasons(fingerprints: Fingerprints, paths: Iterable[str]) -> dict[str, str]:
    """Reason by path, for every image that cannot be read."""
    return {
        path: reason.decode("utf-8", "ignore")
        for path, reason in zip(paths, fingerprints.reason, strict=True)
        if reason
    }
