"""Images per second of one core: ours with and without the cache, fastai 2's and torchvision's; and memory.

``python experiments/data_speed/bench.py --fastai PYTHON`` writes results.csv and memory.csv beside this file.
"""

import argparse
import csv
import itertools
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import IO, Any

import cv2
import numpy as np
import torch
import torchvision
from torchvision.io import ImageReadMode, decode_image
from torchvision.transforms import InterpolationMode, v2

from covid_xray.data.audit.fingerprints import pixel_digest
from covid_xray.data.augmentation import Augmentation, LogitBrightnessContrast, ResizeWarp
from covid_xray.data.cache import open_store
from covid_xray.data.dataset import XrayDataset
from covid_xray.data.images.read import read_image, write_png
from covid_xray.data.phantom import draw_phantom
from covid_xray.data.sampling import Sample

HERE = Path(__file__).parent
REAL = HERE.parents[2] / "shared/data/chest-xrays"
SIZES, STORED, ORIGINAL, BATCH = (224, 448), 448, 1024, 16
Timed = Callable[[int, int], float]  # of size and number of images: images per second


def main() -> None:
    """Measure everything, in rounds, and write both tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--fastai", help="Python of a virtual environment with fastai 2")
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--originals", type=int, default=48)
    parser.add_argument("--memory", type=int, nargs=2, metavar=("CACHE_FOLDER_IMAGES", "SIDE"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.memory:
        return measure_memory(*options.memory)
    cv2.setNumThreads(0)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        kind, files = make_originals(Path(name) / "png", options.originals)
        contenders: dict[str, tuple[Timed, int]] = ours(files, Path(name) / "cache") | torchvision_v2(files)
        versions = f"OpenCV {cv2.__version__}, torch {torch.__version__}, torchvision {torchvision.__version__}"
        if options.fastai:
            timed, said = fastai_2(options.fastai, Path(name) / "png")
            contenders["fastai 2, item and batch transforms"] = (timed, 16)
            versions = f"{said}; {versions}"
        rounds = [
            {(who, size): timed(size, count) for size in SIZES for who, (timed, count) in contenders.items()}
            for _ in range(options.repeats + 1)
        ][1:]  # the first one warms up
    hardware = f"{cpu()}, {os.cpu_count()} CPUs, load {os.getloadavg()[0]:.1f}"
    rows = [row(who, size, rounds) | {"images": kind} for size in SIZES for who in contenders]
    write(HERE / "results.csv", [row | {"hardware": hardware, "versions": versions} for row in rows])
    memory = [run_memory(images) for images in (1_000, 20_000)]
    write(HERE / "memory.csv", memory)
    return None


def make_originals(folder: Path, number: int) -> tuple[str, list[str]]:
    """PNG files of 1024 pixels on the short side: of the real X-rays where they lie beside the repository."""
    folder.mkdir()
    real = sorted(REAL.glob("*/*.jpg"))[:: max(1, len(sorted(REAL.glob("*/*.jpg"))) // number)][:number]
    for index in range(number):
        image = read_image(real[index]) if real else draw_phantom("normal", index, 0, ORIGINAL)
        scale = ORIGINAL / min(image.shape)
        image = np.asarray(cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_CUBIC), dtype=np.uint8)
        write_png(folder / f"{index:04d}.png", image)
    return ("real, enlarged to 1024" if real else "phantoms of 1024"), sorted(map(str, folder.glob("*.png")))


def ours(files: list[str], cache: Path) -> dict[str, tuple[Timed, int]]:
    """Our pipeline, and its bound: nothing but OpenCV's warp and look-up table on one square."""
    augment = Augmentation([ResizeWarp(), LogitBrightnessContrast()])
    digests = np.array([pixel_digest(read_image(file)) for file in files], dtype="S32")
    stored = open_store(cache, files, digests, STORED)
    labels = [0] * len(files)
    cached = XrayDataset(files, labels, augment, STORED, stored)
    decoding = XrayDataset(files, labels, augment, STORED)
    squares = {size: [np.ascontiguousarray(cv2.resize(stored[0], (size, size)))] for size in SIZES}
    matrix = np.array([[1.02, 0.05, -3.0], [-0.04, 0.98, 2.0], [1e-4, 2e-4, 1.0]])
    table = np.arange(256, dtype=np.uint8)

    def bare(size: int, count: int) -> float:
        flags, image = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP, squares[size][0]
        start = time.perf_counter()
        for _ in range(count):
            warped = cv2.warpPerspective(image, matrix, (size, size), flags=flags, borderMode=cv2.BORDER_REFLECT_101)
            cv2.LUT(warped, table)
        return count / (time.perf_counter() - start)

    def loader(dataset: XrayDataset) -> Timed:
        epochs = itertools.count()

        def timed(size: int, count: int) -> float:
            epoch = next(epochs)
            samples = [Sample(index % len(files), size, (0, epoch, index)) for index in range(count)]
            start = time.perf_counter()
            for first in range(0, count, BATCH):
                dataset.__getitems__(samples[first : first + BATCH])
            return count / (time.perf_counter() - start)

        return timed

    return {
        "bare warp and look-up table": (bare, 256),
        "cache": (loader(cached), 256),
        "decode every time": (loader(decoding), 32),
    }


def torchvision_v2(files: list[str]) -> dict[str, tuple[Timed, int]]:
    """The article's augmentation as near as torchvision has it, image by image, as its reference scripts do."""
    augment = v2.Compose(
        [
            v2.RandomApply([v2.RandomPerspective(0.2, p=1.0)], p=0.75),
            v2.RandomApply([v2.RandomAffine(10, scale=(1.0, 1.1), interpolation=InterpolationMode.BILINEAR)], p=0.75),
            v2.RandomHorizontalFlip(),
            v2.RandomApply([v2.ColorJitter(brightness=0.2, contrast=0.2)], p=0.75),
        ]
    )
    decoded = [decode_image(file, ImageReadMode.GRAY) for file in files[:16]]

    def run(images: Iterable[Any], size: int, count: int, before: Callable[[Any], torch.Tensor]) -> float:
        endless, start = itertools.cycle(images), time.perf_counter()
        for _ in range(count // BATCH):
            torch.stack([augment(before(next(endless))) for _ in range(BATCH)])
        return count / (time.perf_counter() - start)

    def decoding(size: int, count: int) -> float:
        resize = v2.Resize((size, size), antialias=True)
        return run(files, size, count, lambda file: resize(decode_image(file, ImageReadMode.GRAY)))

    def resized(size: int, count: int) -> float:
        resize = v2.Resize((size, size), antialias=True)
        return run([resize(image) for image in decoded], size, count, lambda image: image)

    return {
        "torchvision v2, decoding": (decoding, 32),
        "torchvision v2, decoded and resized before": (resized, 64),
    }


def fastai_2(python: str, folder: Path) -> tuple[Timed, str]:
    """The fastai 2 pipeline in a process of its own, timed by itself, asked in turn with the others."""
    job = subprocess.Popen(
        [python, str(HERE / "fastai_side.py"), str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    to, answers = cast_pipe(job.stdin), cast_pipe(job.stdout)
    versions = answers.readline().strip()

    def timed(size: int, count: int) -> float:
        to.write(f"{size} {count}\n")
        to.flush()
        return float(answers.readline())

    return timed, versions


def cast_pipe(pipe: IO[str] | None) -> IO[str]:
    """A pipe that was asked for."""
    assert pipe is not None
    return pipe


def row(who: str, size: int, rounds: list[dict[tuple[str, int], float]]) -> dict[str, Any]:
    """Median and range, and the median of the rounds' ratios, which the machine's moods touch least."""
    rates = [each[who, size] for each in rounds]

    def ratio(other: str) -> float:
        return round(statistics.median(each[who, size] / each[other, size] for each in rounds), 3)

    return {
        "pipeline": who,
        "size": size,
        "images_per_second": round(statistics.median(rates), 1),
        "lowest": round(min(rates), 1),
        "highest": round(max(rates), 1),
        "of_bare_warp": ratio("bare warp and look-up table"),
        "of_decode_every_time": ratio("decode every time"),
        "repeats": len(rates),
    }


def run_memory(images: int, side: int = 128) -> dict[str, Any]:
    """Measure the memory in a new process."""
    said = subprocess.run(
        [sys.executable, __file__, "--memory", str(images), str(side)], capture_output=True, text=True, check=True
    )
    start, end = map(float, said.stdout.split()[-2:])
    store = images * side * side / 1e6
    return {"phantoms": images, "store_mb": round(store), "before_mb": start, "most_in_an_epoch_mb": end}


def measure_memory(images: int, side: int) -> None:
    """Say the resident set, in MB, before and at its highest while an epoch is read from the cache."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for index in range(images):
            write_png(folder / f"{index:05d}.png", draw_phantom("normal", index, 0, 32))
        files = sorted(map(str, folder.glob("*.png")))
        digests = np.array([pixel_digest(read_image(file)) for file in files], dtype="S32")
        stored = open_store(folder / "cache", files, digests, side)
        augment = Augmentation([ResizeWarp(), LogitBrightnessContrast()])
        dataset = XrayDataset(files, [0] * images, augment, side, stored)
        order = np.random.default_rng(0).permutation(images)
        before = most = resident()
        for first in range(0, images, BATCH):
            dataset.__getitems__(
                [Sample(int(index), side, (0, 0, int(index))) for index in order[first : first + BATCH]]
            )
            most = max(most, resident())
    print(before, most)


def resident() -> float:
    """Memory of this process, in MB, pages of mapped files included."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return round(pages * os.sysconf("SC_PAGE_SIZE") / 1e6, 1)


def cpu() -> str:
    """Name of the processor."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def write(file: Path, rows: list[dict[str, Any]]) -> None:
    """Write a table and show it."""
    with file.open("w", newline="", encoding="utf-8") as handle:
        writer = csv.DictWriter(handle, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    print(file.read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
