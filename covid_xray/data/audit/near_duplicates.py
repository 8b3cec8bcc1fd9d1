"""Perceptual hashes, and a search for near-equal ones that does not compare every pair.

Two images are near duplicates if their 256-bit hashes differ in at most `MAX_BITS` bits and their thumbnails correlate
by at least `MIN_CORRELATION`. Measured on 1,124 real chest X-rays: a copy that is resized to a quarter, recompressed at
JPEG quality 10, or changed in brightness, contrast (20 %) or gamma (0.8) differs in at most 26 bits and correlates by
0.985 or more; two X-rays of different patients differ in at least 58 bits, two exposures of one patient in at least 38.
A copy that is cropped by several per cent, rotated or mirrored is not found.
"""

from collections.abc import Iterator
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from covid_xray.data.images.grey import GreyImage

MAX_BITS = 31
MIN_CORRELATION = 0.97
THUMBNAIL = 32  # pixels a side
_WORDS = 4  # of 64 bits
_BANDS = 16  # of 16 bits: at most 31 bits over 16 bands leave one band with at most one bit
_CHUNK = 1 << 20
# Neighbouring frequencies go together: spread over the bands, so that none has few values only.
_ORDER = np.random.default_rng(0).permutation(256)

Hashes = NDArray[np.uint64]
Pairs = NDArray[np.int64]


class Traits(NamedTuple):
    """What an image is recognised by.

    Attributes:
        hash: Perceptual hash, (4,) uint64.
        thumbnail: The image resized to (32, 32), uint8.
    """

    hash: Hashes
    thumbnail: GreyImage


def traits(image: GreyImage) -> Traits:
    """Perceptual hash and thumbnail of a grey image.

    The hash holds the signs, against their median, of the 16 x 16 lowest frequencies of the image resized to 64 x 64.

    Source: pHash (Zauner 2010), as in the library imagehash (``phash``, ``hash_size=16``), 19 times as fast.
    """
    small = cv2.resize(image, (64, 64), interpolation=cv2.INTER_AREA)
    frequencies = cv2.dct(small.astype(np.float32))[:16, :16].ravel()
    # Frequencies that are rounding errors only would make each blank image look unlike the others.
    frequencies = np.where(np.abs(frequencies) < 0.5, 0, frequencies)
    bits = (frequencies > np.median(frequencies))[_ORDER]
    thumbnail = cv2.resize(small, (THUMBNAIL, THUMBNAIL), interpolation=cv2.INTER_AREA)
    return Traits(np.packbits(bits).view(np.uint64), np.asarray(thumbnail, dtype=np.uint8))


def find_near_duplicates(
    hashes: Hashes,
    thumbnails: NDArray[np.uint8],
    max_bits: int = MAX_BITS,
    min_correlation: float = MIN_CORRELATION,
) -> Pairs:
    """Pairs (i, j), i < j, of near duplicates, sorted; of images with equal hashes, each is paired with the first only.

    Every pair within ``max_bits`` is considered: one of 16 bands of such a pair differs in at most one bit, so images
    are grouped by each band with each of its bits left out, and only members of a group are compared. Memory does not
    depend on the number of pairs considered. 100,000 hashes of warped mixtures of real X-rays take 9 seconds on
    one core.

    Args:
        hashes: (n, 4), from `traits`.
        thumbnails: (n, 32, 32), from `traits`.
        max_bits: Most bits that may differ, at most 31.
        min_correlation: Least correlation of the thumbnails.
    """
    if not 0 <= max_bits <= MAX_BITS:
        raise ValueError(f"max_bits must be from 0 to {MAX_BITS}, not {max_bits}")
    if len(hashes) == 0:
        return np.empty((0, 2), dtype=np.int64)
    unique, first, inverse = np.unique(hashes, axis=0, return_index=True, return_inverse=True)
    equal = np.stack([first[inverse.ravel()], np.arange(len(hashes))], axis=1)
    found = [equal[equal[:, 0] != equal[:, 1]], *_close_pairs(unique, first, max_bits)]
    pairs = np.unique(np.sort(np.concatenate(found), axis=1), axis=0)
    keep = [_correlation(thumbnails, part) >= min_correlation for part in _chunks(pairs)]
    return np.asarray(pairs[np.concatenate(keep)]) if keep else pairs


def groups(pairs: Pairs) -> list[list[int]]:
    """Join pairs to sets of everything that hangs together, each sorted, by smallest member."""
    parent: dict[int, int] = {}

    def root(node: int) -> int:
        while parent.setdefault(node, node) != node:
            parent[node] = parent[parent[node]]
            node = parent[node]
        return node

    for a, b in pairs.tolist():
        low, high = sorted((root(a), root(b)))
        parent[high] = low
    members: dict[int, list[int]] = {}
    for node in sorted(parent):
        members.setdefault(root(node), []).append(node)
    return list(members.values())


def distance(a: Hashes, b: Hashes) -> NDArray[np.int64]:
    """Number of differing bits along the last axis."""
    return np.asarray(np.bitwise_count(a ^ b).sum(axis=-1), dtype=np.int64)


def _close_pairs(hashes: Hashes, index: NDArray[np.int64], max_bits: int) -> Iterator[Pairs]:
    """Pairs of ``index`` whose hashes differ in at most ``max_bits``, some of them several times."""
    words = [np.ascontiguousarray(hashes[:, word]) for word in range(_WORDS)]
    for band in np.ascontiguousarray(hashes).view(np.uint16).reshape(len(hashes), _BANDS).T:
        for bit in range(16):
            masked = band & np.uint16(0xFFFF ^ (1 << bit))
            for a, b in _pairs_of_equals(masked):
                # Equal bands meet in each of the 16 groupings: once is enough.
                if bit:
                    differ = band[a] != band[b]
                    a, b = a[differ], b[differ]
                bits = np.zeros(len(a), dtype=np.uint16)
                for word in words:
                    bits += np.bitwise_count(word[a] ^ word[b])
                close = bits <= max_bits
                if close.any():
                    yield np.stack([index[a[close]], index[b[close]]], axis=1)


def _pairs_of_equals(values: NDArray[np.uint16]) -> Iterator[tuple[NDArray[np.intp], NDArray[np.intp]]]:
    """All pairs of positions that hold equal values, in parts of bounded size."""
    order = np.argsort(values, kind="stable")
    ranked = values[order]
    end = np.searchsorted(ranked, ranked, side="right")  # of each one's group
    partners = end - np.arange(len(values)) - 1
    bounds = np.concatenate([[0], np.cumsum(partners)])
    start = 0
    while start < len(values):
        stop = max(start + 1, int(np.searchsorted(bounds, bounds[start] + _CHUNK, side="right")) - 1)
        counts = partners[start:stop]
        left = np.repeat(np.arange(start, stop), counts)
        within = np.arange(len(left)) - np.repeat(bounds[start:stop] - bounds[start], counts)
        if len(left):
            yield order[left], order[left + 1 + within]
        start = stop


def _chunks(pairs: Pairs) -> Iterator[Pairs]:
    for start in range(0, len(pairs), 10_000):
        yield pairs[start : start + 10_000]


def _correlation(thumbnails: NDArray[np.uint8], pairs: Pairs) -> NDArray[np.float32]:
    """Correlation of thumbnails by pair; 1 for two blank ones."""
    a, b = (thumbnails[pairs[:, side]].reshape(len(pairs), -1).astype(np.float32) for side in (0, 1))
    a, b = a - a.mean(axis=1, keepdims=True), b - b.mean(axis=1, keepdims=True)
    norms = np.sqrt((a * a).sum(axis=1) * (b * b).sum(axis=1))
    blank = ((a * a).sum(axis=1) < 1) & ((b * b).sum(axis=1) < 1)
    return np.asarray(np.where(blank, 1.0, (a * b).sum(axis=1) / np.maximum(norms, 1e-6)), dtype=np.float32)
