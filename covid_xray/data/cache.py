"""Cache of resized images: each image is decoded and resized once, into one memory-mapped file.

The file holds n squares of grey bytes, a checksum of each (0 for a missing image), and a seal: the digest of the
checksums. Its name is a digest of the images' own pixels and of the side: changed images make another store, while
files that are moved, touched or listed in another order find their store again. Any store may be deleted at any time.
"""

import contextlib
import hashlib
import mmap
import os
import shutil
import tempfile
import threading
import zlib
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from covid_xray.data.audit.fingerprints import Fingerprints, fingerprint_files, pixel_digest
from covid_xray.data.images.grey import GreyImage
from covid_xray.data.images.read import read_image
from covid_xray.data.images.resize import resize
from covid_xray.data.parallel import map_files
from covid_xray.errors import UserError
from covid_xray.files import read_at, waiting_lock, write_at

Table = NDArray[np.uint64]
_VERSION = 1  # to be raised when `resize` gives other pixels
_PRESENT = 1 << 32  # so that no checksum is 0
_SEAL_BYTES = 32


class Layout(NamedTuple):
    """Offsets within a store.

    Attributes:
        side: Of every image, in pixels.
        images: How many there are.
    """

    side: int
    images: int

    @property
    def square(self) -> int:
        """Bytes of an image."""
        return self.side * self.side

    @property
    def table(self) -> int:
        """Where the checksums begin."""
        return self.images * self.square

    @property
    def length(self) -> int:
        """Bytes of the file."""
        return self.table + 8 * self.images + _SEAL_BYTES


class StoredImages:
    """Resized images by position; several positions may share one image of the store.

    Args:
        path: The store.
        layout: Its layout.
        rows: Number of the image in the store, by position.
    """

    def __init__(self, path: Path, layout: Layout, rows: NDArray[np.int64]) -> None:
        self.path, self.layout, self.rows = path, layout, rows
        # Opened now: the pages stay readable if the file is deleted.
        self._open()

    def __len__(self) -> int:
        """Number of positions."""
        return len(self.rows)

    def __getitem__(self, position: int) -> GreyImage:
        """The image (side, side), uint8, read-only, straight from the file's pages."""
        image: GreyImage = self._images[self.rows[position]]
        return image

    def take(self, positions: NDArray[np.int64]) -> "StoredImages":
        """The images at some positions."""
        return StoredImages(self.path, self.layout, self.rows[positions])

    def release(self) -> None:
        """Give the pages read so far back, so that the process does not grow with the number of images."""
        if hasattr(mmap, "MADV_DONTNEED"):
            self._pages.madvise(mmap.MADV_DONTNEED)

    def _open(self) -> None:
        with self.path.open("rb") as file:
            self._pages = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        pixels = np.frombuffer(self._pages, dtype=np.uint8, count=self.layout.table)
        self._images: NDArray[np.uint8] = pixels.reshape(self.layout.images, self.layout.side, self.layout.side)

    def __getstate__(self) -> dict[str, Any]:
        """A loader worker that is not forked opens the file again."""
        return {"path": self.path, "layout": self.layout, "rows": self.rows}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._open()


class Images(NamedTuple):
    """What was read of the images of a data set.

    Attributes:
        files: The image files.
        fingerprints: One entry per file.
        stored: The resized images; None without a cache.
    """

    files: tuple[str, ...]
    fingerprints: Fingerprints
    stored: StoredImages | None = None

    def select(self, files: Sequence[str]) -> "Images":
        """The entries of some files, in this order; a file may occur several times."""
        number = {file: row for row, file in enumerate(self.files)}
        rows = np.array([number[file] for file in files], dtype=np.int64)
        fingerprints = self.fingerprints.take(rows)
        return Images(tuple(files), fingerprints, None if self.stored is None else self.stored.take(rows))


def read_images(
    files: Sequence[str],
    audit_cache: str | Path | None = None,
    cache: str | Path | None = None,
    side: int | None = None,
    workers: int | None = None,
) -> Images:
    """Read every image once: its fingerprint for the audit and, with a cache, its resized pixels for training.

    Images whose fingerprint and pixels are in the caches are not read again. Several processes may ask at once: one
    reads, the others wait.

    Args:
        files: Image files.
        audit_cache: Folder that keeps fingerprints; None: keep none.
        cache: Folder of resized images; None: make no cache.
        side: Side of the resized images, in pixels; needed with ``cache``.
        workers: Number of threads; None for the number of cores, at most 8.

    Returns:
        One entry per file, in this order. With a cache, the resized images too, unless an image cannot be read.

    Raises:
        UserError: If the cache cannot be written.
    """
    if len(once := list(dict.fromkeys(files))) < len(files):  # a leaky split lists files twice
        return read_images(once, audit_cache, cache, side, workers).select(files)
    known = None if audit_cache is None else Path(audit_cache)
    if cache is None:
        return Images(tuple(files), fingerprint_files(files, known, workers))
    assert side is not None
    with Spool(Path(cache), side) as spool:
        fingerprints = fingerprint_files(files, known, workers, spool.add)
        if (fingerprints.reason != b"").any():
            return Images(tuple(files), fingerprints)
        return Images(tuple(files), fingerprints, open_store(Path(cache), files, fingerprints.pixels, side, spool.get))


class Spool:
    """Resized images in a temporary file, until the digests of all images name their store.

    Args:
        folder: Where to put the file, if it can be made.
        side: Side of the resized images, in pixels.
    """

    def __init__(self, folder: Path, side: int) -> None:
        self.side, self.rows = side, dict[str, int]()
        with contextlib.suppress(OSError):
            folder.mkdir(parents=True, exist_ok=True)
        self._file = tempfile.TemporaryFile(dir=folder if os.access(folder, os.W_OK) else None)  # noqa: SIM115
        self._lock = threading.Lock()

    def __enter__(self) -> "Spool":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def add(self, file: str, image: GreyImage) -> None:
        """Keep an image; on a full disk it is read again later."""
        pixels = np.ascontiguousarray(resize(image, self.side)).tobytes()
        with self._lock, contextlib.suppress(OSError):
            row = len(self.rows)
            self._file.seek(row * len(pixels))
            self._file.write(pixels)
            self.rows[file] = row

    def get(self, file: str) -> bytes | None:
        """The pixels of an image, if they were kept."""
        if (row := self.rows.get(file)) is None:
            return None
        with self._lock:
            self._file.seek(row * self.side**2)
            return self._file.read(self.side**2)


def open_store(
    folder: Path,
    files: Sequence[str],
    digests: NDArray[np.bytes_],
    side: int,
    resized: Callable[[str], bytes | None] = lambda file: None,
) -> StoredImages:
    """Open the store of some images, verified; missing or damaged images are made first.

    Several processes may ask at once: one makes it, the others wait. A store that a killed process left is continued.

    Args:
        folder: Folder of the stores; made if missing.
        files: Image files.
        digests: `pixel_digest` of every file's image.
        side: Side of the resized images, in pixels.
        resized: Gives the resized pixels of a file that was read already, or None.

    Raises:
        UserError: If the folder cannot be written, the disk is full, or an image is not what its digest says.
    """
    unique, first, rows = np.unique(digests, return_index=True, return_inverse=True)
    layout = Layout(side, len(unique))
    key = hashlib.sha256(f"{_VERSION} {side} ".encode() + unique.tobytes()).hexdigest()[:24]
    path = folder / f"{side}px-{key}.grey"
    if not _is_sound(path, layout):
        try:
            _make(path, layout, [files[index] for index in first], unique, resized)
        except OSError as error:
            raise UserError(
                f"datamodule.cache={folder}: the store of {layout.length / 1e6:,.0f} MB cannot be written "
                f"({error.strerror or error}{_free_space(folder)}); make room, give another folder, or use "
                f"datamodule.cache=off"
            ) from None
    return StoredImages(path, layout, rows.astype(np.int64))


def _make(
    path: Path,
    layout: Layout,
    files: Sequence[str],
    digests: NDArray[np.bytes_],
    resized: Callable[[str], bytes | None],
) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    with waiting_lock(path.with_suffix(".lock"), f"makes {path}"):
        if _is_sound(path, layout):
            return  # made by another process in the meantime
        if path.exists():
            print(f"Cache: {path} is damaged and will be repaired")
            path.replace(part)
        descriptor = os.open(part, os.O_RDWR | os.O_CREAT | getattr(os, "O_BINARY", 0), 0o666)
        try:
            _fill(descriptor, layout, files, digests, path, resized)
        finally:
            os.close(descriptor)
        part.replace(path)


def _fill(
    descriptor: int,
    layout: Layout,
    files: Sequence[str],
    digests: NDArray[np.bytes_],
    path: Path,
    resized: Callable[[str], bytes | None],
) -> None:
    """Write the images that are not there yet, their checksums and the seal."""
    os.ftruncate(descriptor, layout.length)
    if hasattr(os, "posix_fallocate"):  # a full disk is reported now, not in an hour
        os.posix_fallocate(descriptor, 0, layout.length)
    missing = np.flatnonzero(~_sound_rows(descriptor, layout, _read_table(descriptor, layout))).tolist()
    print(
        f"Cache: {len(missing):,} of {layout.images:,} images are resized to {layout.side} pixels, once, into {path} "
        f"({layout.length / 1e6:,.1f} MB)"
    )
    rows = {files[row]: row for row in missing}

    def resize_into_store(file: str) -> None:
        pixels = resized(file)
        if pixels is None:
            image = read_image(file)
            if pixel_digest(image).encode() != digests[rows[file]]:
                raise UserError(f"image {file} has changed since the command began: start it again")
            pixels = np.ascontiguousarray(resize(image, layout.side)).tobytes()
        # Not through a map: there, a full disk ends the process without a message.
        write_at(descriptor, pixels, rows[file] * layout.square)
        # Last, so that a kill leaves no checksum without its pixels.
        write_at(descriptor, _checksum(pixels).to_bytes(8, "little"), layout.table + 8 * rows[file])

    deque(map_files(resize_into_store, list(rows), "resizing images"), maxlen=0)
    write_at(
        descriptor, hashlib.sha256(_read_table(descriptor, layout).tobytes()).digest(), layout.length - _SEAL_BYTES
    )
    os.fsync(descriptor)


def _is_sound(path: Path, layout: Layout) -> bool:
    """Whether a store exists, is complete, and matches its checksums."""
    try:
        with path.open("rb") as file:
            if os.fstat(file.fileno()).st_size != layout.length:
                return False
            table = _read_table(file.fileno(), layout)
            seal = read_at(file.fileno(), _SEAL_BYTES, layout.length - _SEAL_BYTES)
            sealed = seal == hashlib.sha256(table.tobytes()).digest()
            return sealed and bool(_sound_rows(file.fileno(), layout, table).all())
    except OSError:
        return False


def _sound_rows(descriptor: int, layout: Layout, table: Table) -> NDArray[np.bool_]:
    """Which images are there and match their checksum: about two gigabytes a second and core."""

    def is_sound(row: int) -> bool:
        return int(table[row]) == _checksum(read_at(descriptor, layout.square, row * layout.square))

    sound = np.zeros(layout.images, dtype=bool)
    present = np.flatnonzero(table).tolist()
    # Not mapped: pages read through a map would count as this process's memory.
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        sound[present] = list(pool.map(is_sound, present))
    return sound


def _read_table(descriptor: int, layout: Layout) -> Table:
    return np.frombuffer(read_at(descriptor, 8 * layout.images, layout.table), dtype="<u8")


def _checksum(pixels: bytes) -> int:
    return _PRESENT | zlib.crc32(pixels)


def _free_space(folder: Path) -> str:
    try:
        return f"; {shutil.disk_usage(folder).free / 1e6:,.0f} MB are free"
    except OSError:
        return ""
