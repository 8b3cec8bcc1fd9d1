"""Speed of the first contact with a collection: prepare, audit, and the resized images for training.

``python experiments/data_speed/first_contact.py`` writes three tables beside this file:

- first_contact.csv: images per second of processor time on one thread, of 1,000-pixel phantoms as PNG, JPEG and DICOM,
  beside the floor, which is decoding alone. Every way has a new copy of the images and is measured in turn with the
  others; values are medians over the rounds.
- collection.csv: time and peak memory of a large collection of small images, killed in the middle and continued.
- near_duplicates.csv: time and peak memory of the search for near duplicates among many hashes, and how many of the
  planted pairs it finds.
"""

import argparse
import json
import os
import resource
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pydicom
from bench import HERE, cpu, write
from pydicom.uid import ExplicitVRLittleEndian

from covid_xray.data.audit import fingerprints
from covid_xray.data.audit.near_duplicates import MAX_BITS, THUMBNAIL, find_near_duplicates
from covid_xray.data.audit.report import audit_records
from covid_xray.data.cache import read_images
from covid_xray.data.images.grey import GreyImage
from covid_xray.data.images.read import read_image, write_png
from covid_xray.data.images.resize import resize
from covid_xray.data.manifest import read_manifest
from covid_xray.data.phantom import CLASSES, draw_phantom
from covid_xray.data.prepare import prepare

SIDE, STORED, SMALL = 1000, 448, 48
FORMATS = ("png", "jpg", "dcm")
FLOOR = "decoding alone"
TABLES = ("first_contact", "collection", "near_duplicates")


def main() -> None:
    """Measure; write the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="*", choices=TABLES, default=TABLES)
    parser.add_argument("--images", type=int, default=200, help="of 1,000 pixels, in each format")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--collection", type=int, default=100_000, help="number of small images")
    parser.add_argument("--hashes", type=int, nargs="+", default=[100_000, 1_000_000])
    parser.add_argument("--output", type=Path, default=HERE)
    parser.add_argument("--child", type=json.loads, help=argparse.SUPPRESS)
    options = parser.parse_args()
    cv2.setNumThreads(0)
    if options.child:
        print(json.dumps(globals()[options.child[0]](*options.child[1:])))
        return
    if "first_contact" in options.only:
        write(options.output / "first_contact.csv", formats(options.images, options.rounds))
    if "collection" in options.only:
        write(options.output / "collection.csv", collection(options.collection))
    if "near_duplicates" in options.only:
        rows = [run_child("search", hashes) for hashes in options.hashes]
        write(options.output / "near_duplicates.csv", [row | {"hardware": cpu()} for row in rows])


def formats(images: int, rounds: int) -> list[dict[str, Any]]:
    """Rows of first_contact.csv."""
    ways = {
        FLOOR: decode,
        "decoding and resizing": decode_and_resize,
        "prepare": only_prepare,
        "prepare and audit": prepare_and_audit,
        "prepare, audit and cache": with_caches,
        "prepare, audit and cache, each decodes": without_caches,
    }
    rows = []
    for suffix in FORMATS:
        seconds: dict[str, list[float]] = {name: [] for name in ways}
        for number in range(rounds + 1):
            for name, way in ways.items():
                with tempfile.TemporaryDirectory() as folder:
                    files = draw(Path(folder) / "xrays", suffix, images)
                    start = time.process_time()
                    way(Path(folder), files)
                    if number:  # the first round warms up
                        seconds[name].append(time.process_time() - start)
        for name in ways:
            ratios = [each / floor for each, floor in zip(seconds[name], seconds[FLOOR], strict=True)]
            rows.append(
                {
                    "format": suffix,
                    "way": name,
                    "images_per_second": round(images / statistics.median(seconds[name]), 1),
                    "times_the_floor": round(statistics.median(ratios), 2),
                    "images": images,
                    "rounds": rounds,
                    "hardware": cpu(),
                }
            )
    return rows


def draw(folder: Path, suffix: str, images: int) -> list[str]:
    """Write phantoms into folders by class; returns the files."""
    for number in range(images):
        name = CLASSES[number % len(CLASSES)]
        (folder / name).mkdir(parents=True, exist_ok=True)
        image, file = phantom(name, number), folder / name / f"{number:04d}.{suffix}"
        if suffix == "dcm":
            write_dicom(file, image)
        elif suffix == "jpg":
            cv2.imwrite(str(file), image, [cv2.IMWRITE_JPEG_QUALITY, 95])
        else:
            write_png(file, image)
    return sorted(map(str, folder.glob("*/*")))


_drawn: dict[tuple[str, int], GreyImage] = {}


def phantom(name: str, number: int) -> GreyImage:
    """A phantom, which is drawn once."""
    if (name, number) not in _drawn:
        _drawn[name, number] = draw_phantom(name, number, 0, SIDE)
    return _drawn[name, number]


def write_dicom(file: Path, image: GreyImage) -> None:
    """Write an uncompressed image of 12 bits, as a radiograph has."""
    data = pydicom.Dataset()
    data.file_meta = pydicom.dataset.FileMetaDataset()
    data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data.SOPClassUID, data.SOPInstanceUID = "1.2.840.10008.5.1.4.1.1.1.1", pydicom.uid.generate_uid()
    data.file_meta.MediaStorageSOPClassUID = data.SOPClassUID
    data.file_meta.MediaStorageSOPInstanceUID = data.SOPInstanceUID
    data.Rows, data.Columns = image.shape
    data.PhotometricInterpretation, data.SamplesPerPixel, data.PixelRepresentation = "MONOCHROME2", 1, 0
    data.BitsAllocated, data.BitsStored, data.HighBit = 16, 12, 11
    data.PixelData = (image.astype(np.uint16) * 16).tobytes()
    data.save_as(file, enforce_file_format=True)


def decode(folder: Path, files: list[str]) -> None:
    """The floor."""
    for file in files:
        read_image(file)


def decode_and_resize(folder: Path, files: list[str]) -> None:
    """What no way can do without that makes the same resized images."""
    for file in files:
        resize(read_image(file), STORED)


def only_prepare(folder: Path, files: list[str]) -> None:
    """The first command."""
    prepare("folder", folder / "xrays", folder / "out", workers=1)


def prepare_and_audit(folder: Path, files: list[str]) -> None:
    """The first two commands."""
    audit = folder / "audit"
    prepared = prepare("folder", folder / "xrays", folder / "out", workers=1, audit_cache=audit)
    records = read_manifest(prepared.manifest)
    audit_records(records, read_images(records["file"].tolist(), audit, workers=1))


def with_caches(folder: Path, files: list[str]) -> None:
    """All three, as the commands do them with ``cache=data/cache``."""
    audit, cache = folder / "audit", folder / "cache"
    _all(folder, audit, audit, {"cache": cache, "image_size": STORED, "audit_cache": audit})


def without_caches(folder: Path, files: list[str]) -> None:
    """All three, where nothing is kept from one to the next."""
    _all(folder, folder / "audit", None, {})


def _all(folder: Path, audit: Path, training: Path | None, settings: dict[str, Path | int]) -> None:
    prepared = prepare("folder", folder / "xrays", folder / "out", workers=1, **settings)  # type: ignore[arg-type]
    records = read_manifest(prepared.manifest)
    files = records["file"].tolist()
    audit_records(records, read_images(files, audit, workers=1))
    read_images(files, training, folder / "cache", STORED, workers=1)


def collection(images: int) -> list[dict[str, Any]]:
    """Rows of collection.csv: prepare, audit and cache in one session; killed and continued; and when all is known."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        draw_small(folder / "xrays", images)
        rows = [{"session": "undisturbed"} | run_child("whole", str(folder / "xrays"), str(folder / "a"))]
        killed, known = start_child("whole", str(folder / "xrays"), str(folder / "b")), folder / "b/audit"
        start = time.monotonic()
        while killed.poll() is None and not list(known.glob("*.npz")):
            time.sleep(0.1)
        killed.send_signal(signal.SIGKILL)
        killed.communicate()
        rows.append({"session": "killed after its first save", "seconds": round(time.monotonic() - start, 1)})
        print(*rows, sep="\n", flush=True)
        for session in ("continued", "all known"):
            rows.append({"session": session} | run_child("whole", str(folder / "xrays"), str(folder / "b")))
            print(rows[-1], flush=True)
        same = [(folder / run / "out/manifest.csv").read_bytes() for run in "ab"]
    return [row | {"images": images, "same_manifest": same[0] == same[1], "hardware": cpu()} for row in rows]


def whole(xrays: str, folder: str) -> dict[str, float]:
    """Prepare, audit and cache; in a process of its own, to measure its memory."""
    decoded, decode_image = [0], fingerprints.decode_image

    def count(data: bytes, file: str | Path) -> GreyImage:
        decoded[0] += 1
        return decode_image(data, file)

    fingerprints.decode_image = count
    start, before = time.monotonic(), peak()
    known, store = Path(folder) / "audit", Path(folder) / "cache"
    prepared = prepare("folder", Path(xrays), Path(folder) / "out", audit_cache=known, cache=store, image_size=SMALL)
    records = read_manifest(prepared.manifest)
    files = records["file"].tolist()
    audit_records(records, read_images(files, known))
    read_images(files, known, store, SMALL)
    return {
        "seconds": round(time.monotonic() - start, 1),
        "processor_seconds": round(time.process_time(), 1),
        "decoded_for_prepare_and_audit": decoded[0],
        "peak_mb": round(peak()),
        "above_imports_mb": round(peak() - before),
    }


def draw_small(folder: Path, images: int) -> None:
    """Write different smooth images of 48 pixels into folders by class, 1,000 in each folder."""
    rng = np.random.default_rng(0)
    for number in range(images):
        place = folder / CLASSES[number % len(CLASSES)] / f"{number // 1000:04d}"
        if number % 1000 < len(CLASSES):
            place.mkdir(parents=True, exist_ok=True)
        greys = rng.integers(0, 256, (12, 12)).astype(np.uint8)
        write_png(place / f"{number:07d}.png", np.asarray(cv2.resize(greys, (SMALL, SMALL)), dtype=np.uint8))


def search(hashes: int) -> dict[str, float]:
    """A row of near_duplicates.csv: random hashes, a hundredth of which have a copy with 0 to 31 changed bits."""
    rng, planted = np.random.default_rng(0), hashes // 100
    bits = rng.integers(0, 1 << 64, (hashes, 4), dtype=np.uint64)
    thumbnails = np.zeros((hashes, THUMBNAIL, THUMBNAIL), dtype=np.uint8)  # all alike: the hash alone decides
    copies = np.unpackbits(bits[:planted].view(np.uint8), axis=1)
    for row, changed in enumerate(rng.integers(0, MAX_BITS + 1, planted)):
        copies[row, rng.choice(256, changed, replace=False)] ^= 1
    bits[-planted:] = np.packbits(copies, axis=1).view(np.uint64)
    start, before = time.process_time(), peak()
    pairs = find_near_duplicates(bits, thumbnails)
    return {
        "hashes": hashes,
        "processor_seconds": round(time.process_time() - start, 1),
        "peak_mb": round(peak()),
        "above_the_hashes_mb": round(peak() - before),
        "planted_pairs": planted,
        "found": int((pairs[:, 1] - pairs[:, 0] == hashes - planted).sum()),
        "others": int((pairs[:, 1] - pairs[:, 0] != hashes - planted).sum()),
    }


def start_child(function: str, *arguments: str | int) -> subprocess.Popen[str]:
    """Call a function of this file in a process of its own."""
    command = [sys.executable, __file__, "--child", json.dumps([function, *arguments])]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": str(HERE)})


def run_child(function: str, *arguments: str | int) -> dict[str, Any]:
    """Result of a function that ran in a process of its own."""
    child = start_child(function, *arguments)
    lines = child.communicate()[0].splitlines()
    if child.returncode:
        raise SystemExit(f"{function} failed")
    answer: dict[str, Any] = json.loads(lines[-1])
    return answer


def peak() -> float:
    """Peak memory of this process so far, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3


if __name__ == "__main__":
    main()
