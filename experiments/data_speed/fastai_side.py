"""Measures fastai 2's CPU pipeline on request: reads a line ``SIZE COUNT``, prints images per second.

Runs in fastai's virtual environment: ``python fastai_side.py FOLDER``. The first line that it prints has the versions.
"""

import itertools
import sys
import time
import warnings
from pathlib import Path

import fastai
import torch
from fastai.vision.all import (
    IntToFloatTensor,
    Normalize,
    PILImage,
    Pipeline,
    Resize,
    ResizeMethod,
    ToTensor,
    aug_transforms,
    imagenet_stats,
)

warnings.filterwarnings("ignore")
torch.set_num_threads(1)
BATCH = 16


def main() -> None:
    """Answer requests until the end of the input."""
    files = sorted(Path(sys.argv[1]).glob("*.png"))
    print(f"fastai {fastai.__version__}, torch {torch.__version__}", flush=True)
    for line in sys.stdin:
        size, count = map(int, line.split())
        print(images_per_second(files, size, count), flush=True)


def images_per_second(files: list[Path], size: int, count: int) -> float:
    """Measure decoding and both kinds of transforms."""
    item = Pipeline([PILImage.create, Resize(size, method=ResizeMethod.Squish), ToTensor()])
    # The defaults of `aug_transforms` are the article's: flip, 10 degrees, zoom to 1.1, lighting 0.2, warp 0.2.
    batch = Pipeline([IntToFloatTensor(), *aug_transforms(), Normalize.from_stats(*imagenet_stats, cuda=False)])
    batch.split_idx = item.split_idx = 0
    endless = itertools.cycle(files)
    start = time.perf_counter()
    for _ in range(count // BATCH):
        images = [item(next(endless)) for _ in range(BATCH)]
        batch(type(images[0])(torch.stack(images)))
    return count / (time.perf_counter() - start)


main()
