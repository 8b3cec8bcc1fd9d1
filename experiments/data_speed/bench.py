"""Measures images per second on one core, with and without the cache, of fastai 2 and of torchvision; and memory.

``python experiments/data_speed/bench.py --fastai PYTHON`` writes results.csv and memory.csv beside this file.
"""

import argparse
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
from typing import Any

import cv2
import numpy as np
import pandas as pd
import torch
import torchvision
from torchvision.io import ImageReadMode, decode_image
from torchvision.transforms import InterpolationMode, v2

from covid_xray.data.augmentation import Augmentation, LogitBrightnessContrast, ResizeWarp
from covid_xray.data.cache import StoredImages, read_images
from covid_xray.data.dataset import XrayDataset
from covid_xray.data.images.read import read_image, write_png
from covid_xray.data.phantom import draw_phantom
from covid_xray.data.sampling import Sample
from covid_xray.files import write_atomically

HERE = Path(__file__).parent
REAL = HERE.parents[2] / "shared/data/chest-xrays"
SIZES, STORED, ORIGINAL, BATCH = (224, 448), 448, 1024, 16
Pipeline = Callable[[int, int], float]  # images per second, for a size and a number of images


def main() -> None:
    """Measure speed, in rounds, and memory; write both tables."""
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
        contenders: dict[str, tuple[Pipeline, int]] = ours(files, Path(name) / "cache") | torchvision_v2(files)
        versions = f"OpenCV {cv2.__version__}, torch {torch.__version__}, torchvision {torchvision.__version__}"
        if options.fastai:
            pipeline, fastai_versions = fastai_2(options.fastai, Path(name) / "png")
            contenders["fastai 2, item and batch transforms"] = (pipeline, 16)
            versions = f"{fastai_versions}; {versions}"
        rounds = [
            {(name, size): pipeline(size, count) for size in SIZES for name, (pipeline, count) in contenders.items()}
            for _ in range(options.repeats + 1)
        ][1:]  # the first round warms up
    hardware = f"{cpu()}, {os.cpu_count()} CPUs, load {os.getloadavg()[0]:.1f}"
    rows = [row(name, size, rounds) | {"images": kind} for size in SIZES for name in contenders]
    write(HERE / "results.csv", [row | {"hardware": hardware, "versions": versions} for row in rows])
    memory = [run_memory(images) for images in (1_000, 20_000)]
    write(HERE / "memory.csv", memory)
    return None


def make_originals(folder: Path, number: int) -> tuple[str, list[str]]:
    """Make PNG files of 1024 pixels on the shorter side: real X-rays if they are beside the repository, or phantoms."""
    folder.mkdir()
    real = sorted(REAL.glob("*/*.jpg"))
    real = real[:: max(1, len(real) // number)][:number]
    for index in range(number):
        image = read_image(real[index]) if real else draw_phantom("normal", index, 0, ORIGINAL)
        scale = ORIGINAL / min(image.shape)
        image = np.asarray(cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_CUBIC), dtype=np.uint8)
        write_png(folder / f"{index:04d}.png", image)
    return ("real, enlarged to 1024" if real else "phantoms of 1024"), sorted(map(str, folder.glob("*.png")))


def ours(files: list[str], cache: Path) -> dict[str, tuple[Pipeline, int]]:
    """This project's pipeline, and its upper limit: only OpenCV's warp and look-up table, on one image."""
    augment = Augmentation([ResizeWarp(), LogitBrightnessContrast()])
    stored = store(files, cache, STORED)
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

    def loader(dataset: XrayDataset) -> Pipeline:
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


def torchvision_v2(files: list[str]) -> dict[str, tuple[Pipeline, int]]:
    """The most similar augmentation in torchvision, applied image by image as in its reference scripts."""
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


def fastai_2(python: str, folder: Path) -> tuple[Pipeline, str]:
    """Start the pipeline of fastai 2 in a separate process, which measures its own time on request."""
    job = subprocess.Popen(
        [python, str(HERE / "fastai_side.py"), str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert job.stdin is not None
    assert job.stdout is not None
    requests, answers = job.stdin, job.stdout
    versions = answers.readline().strip()

    def timed(size: int, count: int) -> float:
        requests.write(f"{size} {count}\n")
        requests.flush()
        return float(answers.readline())

    return timed, versions


def store(files: list[str], cache: Path, side: int) -> StoredImages:
    """Make the store of resized images."""
    stored = read_images(files, cache=cache, side=side).stored
    assert stored is not None
    return stored


def row(name: str, size: int, rounds: list[dict[tuple[str, int], float]]) -> dict[str, Any]:
    """Median and range of a pipeline, and the median of the ratios within a round, which have less run-to-run noise."""
    rates = [each[name, size] for each in rounds]

    def ratio(other: str) -> float:
        return round(statistics.median(each[name, size] / each[other, size] for each in rounds), 3)

    return {
        "pipeline": name,
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
    answer = subprocess.run(
        [sys.executable, __file__, "--memory", str(images), str(side)], capture_output=True, text=True, check=True
    )
    before, most = map(float, answer.stdout.split()[-2:])
    store_mb = round(images * side * side / 1e6)
    return {"phantoms": images, "store_mb": store_mb, "before_mb": before, "most_in_an_epoch_mb": most}


def measure_memory(images: int, side: int) -> None:
    """Print the resident set in MB, before an epoch is read from the cache and at its maximum in the epoch."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for index in range(images):
            write_png(folder / f"{index:05d}.png", draw_phantom("normal", index, 0, 32))
        files = sorted(map(str, folder.glob("*.png")))
        stored = store(files, folder / "cache", side)
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
    """Memory of this process in MB, including pages of mapped files."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return round(pages * os.sysconf("SC_PAGE_SIZE") / 1e6, 1)


def cpu() -> str:
    """Name of the processor."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def write(file: Path, rows: list[dict[str, Any]]) -> None:
    """Write a table and print it."""
    text = pd.DataFrame(rows).to_csv(index=False, lineterminator="\n")
    write_atomically(file, text)
    print(text)


if __name__ == "__main__":
    main()
