"""Images decoded and resized once, in one memory-mapped file, instead of in every epoch.

The file holds n squares of grey bytes, a checksum of each (0 where one is still missing), and a seal over those. Its
name is a digest of the images' own pixels and of the side: changed images make another store, while files that are
moved, touched or listed in another order find theirs again. Any store may be deleted at any time.
"""

import fcntl
import hashlib
import mmap
import os
import shutil
import zlib
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from covid_xray.data.audit.fingerprints import pixel_digest
from covid_xray.data.augmentation import resize
from covid_xray.data.images.grey import GreyImage
from covid_xray.data.images.read import read_image
from covid_xray.data.parallel import map_files
from covid_xray.errors import UserError

Table = NDArray[np.uint64]
_VERSION = 1  # to be raised when `resize` gives other pixels
_PRESENT = 1 << 32  # so that no checksum is 0
_SEAL_BYTES = 32


class Layout(NamedTuple):
    """Where things lie in a store.

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
        # Opened now: the pages stay readable if somebody deletes the file.
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
        """A loader worker that is not forked opens the file anew."""
        return {"path": self.path, "layout": self.layout, "rows": self.rows}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._open()


def open_store(folder: Path, files: Sequence[str], digests: NDArray[np.bytes_], side: int) -> StoredImages:
    """Open the store of some images, verified; what is missing or damaged is made first.

    Several processes may ask at once: one makes it, the others wait. What a killed one left is continued.

    Args:
        folder: Where stores lie; made if missing.
        files: Image files.
        digests: `pixel_digest` of every file's image.
        side: Side of the resized images, in pixels.

    Raises:
        UserError: If the folder cannot be written, the disk is full, or an image is not what its digest says.
    """
    unique, first, rows = np.unique(digests, return_index=True, return_inverse=True)
    layout = Layout(side, len(unique))
    key = hashlib.sha256(f"{_VERSION} {side} ".encode() + unique.tobytes()).hexdigest()[:24]
    path = folder / f"{side}px-{key}.grey"
    if not _is_sound(path, layout):
        try:
            _make(path, layout, [files[index] for index in first], unique)
        except OSError as error:
            raise UserError(
                f"data.cache={folder}: the store of {layout.length / 1e6:,.0f} MB cannot be written "
                f"({error.strerror or error}{_free_space(folder)}); make room, give another folder, or use "
                f"data.cache=off"
            ) from None
    return StoredImages(path, layout, rows.astype(np.int64))


def _make(path: Path, layout: Layout, files: Sequence[str], digests: NDArray[np.bytes_]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    with _locked(path.with_suffix(".lock")):
        if _is_sound(path, layout):
            return  # made by another process in the meantime
        if path.exists():
            print(f"Cache: {path} is damaged and will be mended")
            path.replace(part)
        descriptor = os.open(part, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            _fill(descriptor, layout, files, digests, path)
        finally:
            os.close(descriptor)
        part.replace(path)


def _fill(descriptor: int, layout: Layout, files: Sequence[str], digests: NDArray[np.bytes_], path: Path) -> None:
    """Write the images that are not there yet, their checksums and the seal."""
    os.ftruncate(descriptor, layout.length)
    if hasattr(os, "posix_fallocate"):  # a full disk is told now, not in an hour
        os.posix_fallocate(descriptor, 0, layout.length)
    missing = np.flatnonzero(~_sound_rows(descriptor, layout, _read_table(descriptor, layout))).tolist()
    print(
        f"Cache: {len(missing):,} of {layout.images:,} images are resized to {layout.side} pixels, once, into {path} "
        f"({layout.length / 1e6:,.1f} MB)"
    )
    rows = {files[row]: row for row in missing}

    def resize_into_store(file: str) -> None:
        image = read_image(file)
        if pixel_digest(image).encode() != digests[rows[file]]:
            raise UserError(f"image {file} has changed since the command began: start it again")
        pixels = np.ascontiguousarray(resize(image, layout.side)).tobytes()
        _write(descriptor, pixels, rows[file] * layout.square)
        # Last, so that a kill leaves no checksum without its pixels.
        _write(descriptor, _checksum(pixels).to_bytes(8, "little"), layout.table + 8 * rows[file])

    deque(map_files(resize_into_store, list(rows), "resizing images"), maxlen=0)
    _write(descriptor, hashlib.sha256(_read_table(descriptor, layout).tobytes()).digest(), layout.length - _SEAL_BYTES)
    os.fsync(descriptor)


def _is_sound(path: Path, layout: Layout) -> bool:
    """Whether a store is there, whole, and holds what was written into it."""
    try:
        with path.open("rb") as file:
            if os.fstat(file.fileno()).st_size != layout.length:
                return False
            table = _read_table(file.fileno(), layout)
            seal = os.pread(file.fileno(), _SEAL_BYTES, layout.length - _SEAL_BYTES)
            sealed = seal == hashlib.sha256(table.tobytes()).digest()
            return sealed and bool(_sound_rows(file.fileno(), layout, table).all())
    except OSError:
        return False


def _sound_rows(descriptor: int, layout: Layout, table: Table) -> NDArray[np.bool_]:
    """Which images are there and match their checksum: about two gigabytes a second and core."""

    def is_sound(row: int) -> bool:
        return int(table[row]) == _checksum(os.pread(descriptor, layout.square, row * layout.square))

    sound = np.zeros(layout.images, dtype=bool)
    present = np.flatnonzero(table).tolist()
    # Not mapped: pages read through a map would count as this process's memory.
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        sound[present] = list(pool.map(is_sound, present))
    return sound


def _read_table(descriptor: int, layout: Layout) -> Table:
    return np.frombuffer(os.pread(descriptor, 8 * layout.images, layout.table), dtype="<u8")


def _checksum(pixels: bytes) -> int:
    return _PRESENT | zlib.crc32(pixels)


def _write(descriptor: int, data: bytes, offset: int) -> None:
    # Not through a map: there, a full disk ends the process without a word.
    while data:
        done = os.pwrite(descriptor, data, offset)
        data, offset = data[done:], offset + done


def _free_space(folder: Path) -> str:
    try:
        return f"; {shutil.disk_usage(folder).free / 1e6:,.0f} MB are free"
    except OSError:
        return ""


@contextmanager
def _locked(file: Path) -> Iterator[None]:
    """Hold a lock that the system frees when the process ends, however it ends."""
    with file.open("w") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"Cache: waiting for another process that makes {file.with_suffix('.grey')}")
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
