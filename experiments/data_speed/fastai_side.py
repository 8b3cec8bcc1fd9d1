"""fastai 2's own CPU pipeline, timed on demand: reads ``SIZE COUNT`` per line, answers with images per second.

Runs in fastai's virtual environment: ``python fastai_side.py FOLDER``. First line said: the versions.
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
    """Answer until nobody asks any more."""
    files = sorted(Path(sys.argv[1]).glob("*.png"))
    print(f"fastai {fastai.__version__}, torch {torch.__version__}", flush=True)
    for line in sys.stdin:
        size, count = map(int, line.split())
        print(images_per_second(files, size, count), flush=True)


def images_per_second(files: list[Path], size: int, count: int) -> float:
    """Time the decoding and both kinds of transforms."""
    item = Pipeline([PILImage.create, Resize(size, method=ResizeMethod.Squish), ToTensor()])
    # Without limits of its own it flips, turns by 10 degrees, zooms to 1.1, lights and warps by 0.2: the article's.
    batch = Pipeline([IntToFloatTensor(), *aug_transforms(), Normalize.from_stats(*imagenet_stats, cuda=False)])
    batch.split_idx = item.split_idx = 0
    endless = itertools.cycle(files)
    start = time.perf_counter()
    for _ in range(count // BATCH):
        images = [item(next(endless)) for _ in range(BATCH)]
        batch(type(images[0])(torch.stack(images)))
    return count / (time.perf_counter() - start)


main()
