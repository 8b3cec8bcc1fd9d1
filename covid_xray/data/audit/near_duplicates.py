"""Perceptual hashes, and a search for similar ones that does not compare every pair.

Two images are near duplicates if their 256-bit hashes differ in at most `MAX_BITS` bits and their thumbnails correlate
by at least `MIN_CORRELATION`. Measured on 1,124 real chest X-rays: a copy that is resized to a quarter, recompressed at
JPEG quality 10, or changed in brightness, contrast (20 %) or gamma (0.8) differs in at most 26 bits and correlates by
0.985 or more. Two X-rays of different patients differ in at least 54 bits, two exposures of one patient in at least 38.
Negatives are found by the complement of their hash. Both images are also compared as `evened` shows them, which finds
copies with a border, another contrast or burnt-in text. `RECALL` states the share of changed copies that is found: most
of those that are rotated by 2 degrees or cropped by 5 % on each side are not.
"""

from collections.abc import Iterator
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array, csgraph

from covid_xray.data.images.grey import GreyImage
from covid_xray.data.images.resize import shrink

MAX_BITS = 31
MIN_CORRELATION = 0.97
# Share of changed copies that is found, measured on 1,124 real chest X-rays (no pair of different X-rays is found).
RECALL = {
    "JPEG quality 10": 1.00,
    "negative": 1.00,
    "cropped by 1 % on each side": 1.00,
    "padded to a square": 1.00,
    "gamma 0.5": 0.98,
    "border of 5 %": 0.98,
    "gamma 2": 0.92,
    "white border of 5 %": 0.82,
    "burnt-in text": 0.77,
    "histogram equalised": 0.75,
    "CLAHE": 0.67,
    "rotated by 2 degrees": 0.19,
    "cropped by 5 % on each side": 0.00,
    "mirrored": 0.00,
}
# Of evened images (`evened`); those of different patients differ in at least 56 bits, so the hash alone decides.
MIN_EVEN_CORRELATION = 0.8
THUMBNAIL = 32  # side in pixels
_EVEN_SIDE, _LEAST_RANGE = 256, 24
_WORDS = 4  # of 64 bits
_BANDS = 16  # of 16 bits: if at most 31 bits differ, at most one bit differs in one of the 16 bands
_BLOCK = 1 << 14  # members whose words fit into the processor's cache
# Neighbouring frequencies are correlated; spread over the bands, each band takes many values.
_ORDER = np.random.default_rng(0).permutation(256)

Hashes = NDArray[np.uint64]
Pairs = NDArray[np.int64]


class Traits(NamedTuple):
    """Features to compare images by.

    Attributes:
        hash: Perceptual hash, (4,) uint64.
        thumbnail: The image resized to (32, 32), uint8.
    """

    hash: Hashes
    thumbnail: GreyImage


def reduced(image: GreyImage) -> GreyImage:
    """Return the image at the resolution that `traits` and `evened` need: a longer side of at most 256 pixels.

    Pixels are first averaged two by two, which OpenCV does ten times as fast as an area average by another factor; an
    odd last row or column is left out.
    """
    while max(image.shape) >= 2 * _EVEN_SIDE and min(image.shape) >= 2:
        height, width = (side // 2 for side in image.shape)
        halved = cv2.resize(image[: 2 * height, : 2 * width], (width, height), interpolation=cv2.INTER_AREA)
        image = np.asarray(halved, dtype=np.uint8)
    return shrink(image, _EVEN_SIDE)


def traits(image: GreyImage) -> Traits:
    """Compute the perceptual hash and the thumbnail of a grey image.

    Each bit of the hash states whether one of the 16 x 16 lowest frequencies of the image, resized to 64 x 64, is above
    their median.

    Source: pHash (Zauner 2010), as in the library imagehash (``phash``, ``hash_size=16``), but 19 times as fast.
    """
    small = cv2.resize(reduced(image), (64, 64), interpolation=cv2.INTER_AREA)
    frequencies = cv2.dct(small.astype(np.float32))[:16, :16].ravel()
    # Rounding errors would give blank images different hashes.
    frequencies = np.where(np.abs(frequencies) < 0.5, 0, frequencies)
    bits = (frequencies > np.median(frequencies))[_ORDER]
    thumbnail = cv2.resize(small, (THUMBNAIL, THUMBNAIL), interpolation=cv2.INTER_AREA)
    return Traits(np.packbits(bits).view(np.uint64), np.asarray(thumbnail, dtype=np.uint8))


def evened(image: GreyImage) -> GreyImage:
    """Return a small image without uniform borders, and with the same local contrast everywhere.

    Its traits are nearly those of the same image with a border, another contrast or burnt-in text.

    Source: CLAHE (Zuiderveld 1994), clip limit 4, 8 x 8 tiles.
    """
    small = reduced(image)
    for _ in range(2):  # rows, then columns
        ranges = small.max(axis=1).astype(int) - small.min(axis=1)
        kept = np.flatnonzero(ranges >= _LEAST_RANGE)
        small = (small[kept[0] : kept[-1] + 1] if len(kept) >= 16 else small).T
    even = cv2.createCLAHE(4, (8, 8)).apply(cv2.resize(small, (64, 64), interpolation=cv2.INTER_AREA))
    return np.asarray(even, dtype=np.uint8)


def find_near_duplicates(
    hashes: Hashes,
    thumbnails: NDArray[np.uint8],
    max_bits: int = MAX_BITS,
    min_correlation: float = MIN_CORRELATION,
) -> Pairs:
    """Find pairs of near duplicates, and of an image and its negative.

    Every pair within ``max_bits`` is considered: in one of its 16 bands at most one bit differs. So the images are
    grouped by each band with each of its bits removed, and only members of a group are compared. Memory use does not
    depend on the number of pairs considered. A million random hashes take two minutes on one core and, with their
    thumbnails, 1.8 GB.

    Args:
        hashes: (n, 4), from `traits`.
        thumbnails: (n, 32, 32), from `traits`.
        max_bits: Maximum number of different bits, at most 31.
        min_correlation: Minimum correlation of the thumbnails.

    Returns:
        Sorted pairs (i, j) with i < j. Of images with equal hashes, each is paired with the first only.
    """
    if not 0 <= max_bits <= MAX_BITS:
        raise ValueError(f"max_bits must be from 0 to {MAX_BITS}, not {max_bits}")
    if len(hashes) == 0:
        return np.empty((0, 2), dtype=np.int64)
    n = len(hashes)
    # The hash of a negative is the complement, up to the few bits of zero frequencies.
    hashes = np.concatenate([hashes, ~hashes])
    unique, first, inverse = np.unique(hashes, axis=0, return_index=True, return_inverse=True)
    equal = np.stack([first[inverse.ravel()], np.arange(len(hashes))], axis=1)
    found = [equal[equal[:, 0] != equal[:, 1]], *_close_pairs(unique, first, max_bits)]
    pairs = np.unique(np.sort(np.concatenate(found), axis=1), axis=0)
    sign = np.where((pairs < n).all(axis=1) | (pairs >= n).all(axis=1), 1, -1)
    keep = [_correlation(thumbnails, part % n, of) >= min_correlation for part, of in _chunks(pairs, sign)]
    pairs = np.sort((pairs[np.concatenate(keep)] if keep else pairs) % n, axis=1)
    return np.unique(pairs[pairs[:, 0] != pairs[:, 1]], axis=0)


def limits() -> str:
    """One sentence about the changed copies that the search finds, and those that it does not."""
    parts = ", ".join(f"{change} {share:.0%}" for change, share in RECALL.items())
    return (
        f"Near duplicates are found by appearance. Share of changed copies of 1,124 real X-rays that is found: {parts}."
    )


def connected_components(pairs: Pairs) -> list[list[int]]:
    """Return the connected components of the graph with these edges, each sorted, in order of their smallest member."""
    nodes, ends = np.unique(pairs, return_inverse=True)
    a, b = ends.reshape(-1, 2).T
    graph = coo_array((np.ones(len(a)), (a, b)), shape=(len(nodes), len(nodes)))
    _, labels = csgraph.connected_components(graph, directed=False)
    members: dict[int, list[int]] = {}
    for node, label in zip(nodes.tolist(), labels.tolist(), strict=True):
        members.setdefault(label, []).append(node)
    return list(members.values())


def distance(a: Hashes, b: Hashes) -> NDArray[np.int64]:
    """Count the different bits along the last axis."""
    return np.asarray(np.bitwise_count(a ^ b).sum(axis=-1), dtype=np.int64)


def _close_pairs(hashes: Hashes, index: NDArray[np.int64], max_bits: int) -> Iterator[Pairs]:
    """Yield pairs of ``index`` whose hashes differ in at most ``max_bits``; a pair may occur several times."""
    words = [np.ascontiguousarray(hashes[:, word]) for word in range(_WORDS)]
    for band in np.ascontiguousarray(hashes).view(np.uint16).reshape(len(hashes), _BANDS).T:
        for bit in range(16):
            masked = band & np.uint16(0xFFFF ^ (1 << bit))
            order = np.argsort(masked, kind="stable")
            for a, b in _close_members(masked, order, words[0][order], words[1][order], max_bits):
                bits = sum(np.bitwise_count(word[a] ^ word[b]).astype(np.uint16) for word in words)
                # Pairs with equal bands are in each of the 16 groupings; the first one is enough.
                close = (bits <= max_bits) & ((band[a] != band[b]) | (bit == 0))
                yield np.stack([index[a[close]], index[b[close]]], axis=1)


def _close_members(
    values: NDArray[np.uint16], order: NDArray[np.int64], first: Hashes, second: Hashes, max_bits: int
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Yield positions with equal values whose first two words differ in at most ``max_bits``.

    Args:
        values: What to group by.
        order: Positions in the order of the values.
        first: First words in this order: a group is a stretch of them, so its members meet when it is shifted along
            itself. That takes 3 ns a pair; collecting the pairs takes 40.
        second: Second words in this order.
        max_bits: Maximum number of different bits.
    """
    ranked = values[order]
    partners = np.cumsum(np.bincount(ranked, minlength=1 << 16))[ranked] - np.arange(1, len(ranked) + 1)
    for start in range(0, len(ranked), _BLOCK):
        waiting = partners[start : start + _BLOCK]
        for shift in range(1, int(waiting.max()) + 1):
            here, there = slice(start, start + _BLOCK), slice(start + shift, start + shift + _BLOCK)
            a, b = first[here], first[there]
            bits = np.bitwise_count(a[: len(b)] ^ b)
            bits += np.bitwise_count(second[here][: len(b)] ^ second[there])
            near = np.flatnonzero((bits <= max_bits) & (waiting[: len(b)] >= shift))
            if len(near):
                yield order[start + near], order[start + shift + near]


def _chunks(*arrays: NDArray[np.int64]) -> Iterator[tuple[NDArray[np.int64], ...]]:
    for start in range(0, len(arrays[0]), 10_000):
        yield tuple(array[start : start + 10_000] for array in arrays)


def _correlation(thumbnails: NDArray[np.uint8], pairs: Pairs, sign: NDArray[np.int64]) -> NDArray[np.float32]:
    """Correlation of the thumbnails of each pair, times a sign (-1 if one is a negative); 1 for two blank ones."""
    a, b = (thumbnails[pairs[:, side]].reshape(len(pairs), -1).astype(np.float32) for side in (0, 1))
    a, b = a - a.mean(axis=1, keepdims=True), b - b.mean(axis=1, keepdims=True)
    norms = np.sqrt((a * a).sum(axis=1) * (b * b).sum(axis=1))
    blank = ((a * a).sum(axis=1) < 1) & ((b * b).sum(axis=1) < 1)
    return np.asarray(np.where(blank, 1.0, sign * (a * b).sum(axis=1) / np.maximum(norms, 1e-6)), dtype=np.float32)
