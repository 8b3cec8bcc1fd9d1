"""Speed of the first contact with a collection: prepare, audit, and the resized images for training.

``python experiments/data_speed/first_contact.py`` writes first_contact.csv: images per second of processor time on one
thread, of 1,000-pixel phantoms as PNG, JPEG and DICOM, beside the floor, which is decoding alone. Every way has a new
copy of the images and is measured in turn with the others; values are medians over the rounds.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np
import pydicom
from bench import HERE, cpu, write
from pydicom.uid import ExplicitVRLittleEndian

from covid_xray.data.audit.report import audit_records
from covid_xray.data.cache import read_images
from covid_xray.data.images.grey import GreyImage
from covid_xray.data.images.read import read_image, write_png
from covid_xray.data.manifest import read_manifest
from covid_xray.data.phantom import CLASSES, draw_phantom
from covid_xray.data.prepare import prepare

SIDE, STORED = 1000, 448
FORMATS = ("png", "jpg", "dcm")
FLOOR = "decoding alone"


def main() -> None:
    """Measure all formats; write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=48)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    cv2.setNumThreads(0)
    ways = {FLOOR: decode, "prepare": only_prepare, "prepare, audit and cache, caches shared": with_caches}
    ways["prepare, audit and cache, each decodes"] = without_caches
    rows = []
    for suffix in FORMATS:
        seconds: dict[str, list[float]] = {name: [] for name in ways}
        for number in range(options.rounds + 1):
            for name, way in ways.items():
                with tempfile.TemporaryDirectory() as folder:
                    files = draw(Path(folder) / "xrays", suffix, options.images)
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
                    "images_per_second": round(options.images / statistics.median(seconds[name]), 1),
                    "times_the_floor": round(statistics.median(ratios), 2),
                    "images": options.images,
                    "rounds": options.rounds,
                    "hardware": cpu(),
                }
            )
    write(HERE / "first_contact.csv", rows)


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


def only_prepare(folder: Path, files: list[str]) -> None:
    """The first command."""
    prepare("folder", folder / "xrays", folder / "out", workers=1)


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


if __name__ == "__main__":
    main()
