"""Logits and features of many images: the one inference pipeline of `predict` and `evaluate`."""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from rich.console import Console
from rich.progress import track
from scipy import special
from torch import Tensor
from torch.nn import functional as F

from covid_xray.data.augmentation import Augmentation
from covid_xray.data.datamodule import default_workers
from covid_xray.data.images.grey import GreyImage
from covid_xray.data.images.read import read_image
from covid_xray.data.images.resize import resize
from covid_xray.errors import UserError
from covid_xray.runs.load import Run

Images = npt.NDArray[np.uint8]
FloatArray = npt.NDArray[np.float64]
Condition = Callable[[Images], Images]
T = TypeVar("T")
R = TypeVar("R")
WHOLE = "whole image"
# fastai 1's `learn.TTA`: each corner, plain and mirrored, enlarged by 1.35, with the other augmentations drawn again.
TTA_PASSES, TTA_SCALE, TTA_BETA = 8, 1.35, 0.4


@dataclass(frozen=True, eq=False)
class Outputs:
    """What the network computed.

    Attributes:
        logits: By condition, (n, c).
        features: Means of the last feature map (selected rows, d); None if none were asked for.
    """

    logits: Mapping[str, FloatArray]
    features: npt.NDArray[np.float32] | None


def infer(
    run: Run,
    files: Sequence[str],
    conditions: Mapping[str, Condition] | None = None,
    feature_rows: Collection[int] = (),
    threads: int | None = None,
    what: str = "Images",
) -> Outputs:
    """Run the network over images at the run's size, without augmentation.

    Args:
        run: The trained run.
        files: Image files.
        conditions: Changes of the resized pixels, by name; each is a further pass of the network.
        feature_rows: Numbers of the images whose features are wanted.
        threads: Threads that read images; None for the number of cores, at most 8.
        what: Name of the images in the progress bar.

    Raises:
        UserError: If an image cannot be read, or a logit is not finite.
    """
    changes = dict(conditions or {})
    logits: dict[str, list[FloatArray]] = {name: [] for name in (WHOLE, *changes)}
    features, first, wanted = [], 0, set(feature_rows)
    for images in _batches(run, image_reader(run), files, threads, what):
        rows = [row - first for row in range(first, first + len(images)) if row in wanted]
        first += len(images)
        answer, seen = infer_batch(run, torch.from_numpy(images).unsqueeze(1), bool(rows))
        logits[WHOLE].append(answer)
        if seen is not None:
            features.append(seen[rows])
        for name, change in changes.items():
            logits[name].append(infer_batch(run, torch.from_numpy(change(images)).unsqueeze(1))[0])
    joined = {name: np.concatenate(parts) for name, parts in logits.items()}
    return Outputs(joined, np.concatenate(features) if features else None)


def infer_augmented(
    run: Run, files: Sequence[str], augment: Augmentation, seed: int, threads: int | None = None
) -> FloatArray:
    """Mean probabilities (n, c) over fastai's eight augmented views of every image.

    Args:
        run: The trained run.
        files: Image files.
        augment: The run's augmentation without zoom and flip, which the views bring themselves.
        seed: Seed of the augmentation.
        threads: Threads that read images.
    """
    total = np.zeros((len(files), len(run.class_names)))
    for view in range(TTA_PASSES):

        def read(row: int, view: int = view) -> GreyImage:
            return augment(resize(read_image(files[row]), run.base_size), run.image_size, (seed, view, row))

        batches = _batches(run, read, range(len(files)), threads, f"Augmented view {view + 1} of {TTA_PASSES}")
        views = (corner_view(torch.from_numpy(images).unsqueeze(1), view) for images in batches)
        total += special.softmax(np.concatenate([infer_batch(run, images)[0] for images in views]), axis=1)
    return total / TTA_PASSES


def corner_view(images: Tensor, view: int, scale: float = TTA_SCALE) -> Tensor:
    """One of eight views of uint8 images (n, 1, s, s): a corner enlarged by ``scale``, mirrored from view 4 on."""
    keep = 1 / scale
    shift = 1 - keep
    mirror = -1.0 if view & 4 else 1.0
    x, y = (shift if view & 1 else -shift), (shift if view & 2 else -shift)
    # The grid maps output to input coordinates; the mirroring comes last, so it is the first to be undone.
    matrix = torch.tensor([[mirror * keep, 0.0, x], [0.0, keep, y]]).expand(len(images), 2, 3)
    grid = F.affine_grid(matrix, list(images.shape), align_corners=False)
    return F.grid_sample(images.float(), grid, align_corners=False, padding_mode="border").round().to(torch.uint8)


def infer_batch(
    run: Run, images: Tensor, with_features: bool = False
) -> tuple[FloatArray, npt.NDArray[np.float32] | None]:
    """Logits (n, c) and, if asked for, features (n, d) of uint8 images (n, 1, s, s).

    A batch that does not fit into the accelerator's memory is halved.

    Raises:
        UserError: If a single image does not fit, or a logit is not finite.
    """
    network: Any = run.module.network
    features = None
    if run.session is not None:
        answers = run.session.run(["logits", "features"], {"images": images.numpy()})
        return _finite(run, answers[0].astype(np.float64)), answers[1] if with_features else None
    try:
        with torch.inference_mode(), _precision(run):
            on_device = images.to(run.device, non_blocking=True)
            if with_features:
                maps = network.features(run.module.normalise(on_device))
                logits = network.head(maps).double().cpu().numpy()
                features = maps.float().mean(dim=(2, 3) if maps.ndim == 4 else 1).cpu().numpy()
            else:
                logits = run.module(on_device).double().cpu().numpy()
    except torch.cuda.OutOfMemoryError:
        if len(images) == 1:
            raise UserError(f"one image of {run.image_size} pixels does not fit into the GPU's memory") from None
        half = len(images) // 2
        parts = [infer_batch(run, part, with_features) for part in (images[:half], images[half:])]
        seen = [part[1] for part in parts if part[1] is not None]
        return np.concatenate([part[0] for part in parts]), np.concatenate(seen) if seen else None
    return _finite(run, logits), features


def _finite(run: Run, logits: FloatArray) -> FloatArray:
    if not np.isfinite(logits).all():
        raise UserError(f"the {run.checkpoint} checkpoint of {run.folder.path} gives numbers that are not finite")
    return logits


def image_reader(run: Run) -> Callable[[str], GreyImage]:
    """A function that reads an image file at the run's size, with the same pixels as in training."""

    def read(file: str) -> GreyImage:
        return resize(resize(read_image(file), run.base_size), run.image_size)

    return read


def read_ahead(
    read: Callable[[T], R], items: Iterable[T], step: int, threads: int | None = None
) -> Iterator[tuple[list[T], list[R]]]:
    """Yield items and what was read of them, ``step`` at a time; the next batch is read in the meantime.

    Two batches are in memory, independent of the number of items.
    """
    remaining = iter(items)
    with ThreadPoolExecutor(threads or default_workers()) as pool:
        waiting: tuple[list[T], list[Future[R]]] | None = None
        try:
            while batch := list(islice(remaining, step)):
                coming = (batch, [pool.submit(read, item) for item in batch])
                if waiting is not None:
                    yield waiting[0], [future.result() for future in waiting[1]]
                waiting = coming
            if waiting is not None:
                yield waiting[0], [future.result() for future in waiting[1]]
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _precision(run: Run) -> Any:
    kinds = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}
    kind = kinds.get(run.precision)
    # CPUs do not compute in float16; a run of mixed precision keeps float32 weights, so float32 is safe there.
    enabled = kind is not None and not (kind is torch.float16 and run.device.type == "cpu")
    return torch.autocast(run.device.type, dtype=kind or torch.bfloat16, enabled=enabled)


def _batches(
    run: Run, read: Callable[[Any], GreyImage], items: Sequence[Any], threads: int | None, what: str
) -> Iterator[Images]:
    """Images (batch, s, s), with a progress bar."""
    if not items:
        raise UserError("there are no images: the data set is empty")
    console = Console(stderr=True)
    total = -(-len(items) // run.batch_size)
    batches = read_ahead(read, items, run.batch_size, threads)
    for _, images in track(batches, what, total, console=console, disable=not console.is_terminal):
        yield np.stack(images)
