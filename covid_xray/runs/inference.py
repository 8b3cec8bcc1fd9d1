"""Logits and features of many images: every image once, under any number of conditions at a time."""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader

from covid_xray.data.augmentation import Augmentation
from covid_xray.data.datamodule import default_workers
from covid_xray.data.dataset import XrayDataset, collate
from covid_xray.data.sampling import Sample
from covid_xray.errors import UserError
from covid_xray.runs.load import Run

Images = npt.NDArray[np.uint8]
FloatArray = npt.NDArray[np.float64]
Condition = Callable[[Images], Images]
WHOLE = "whole image"
# fastai 1's `learn.TTA`: each corner, straight and mirrored, enlarged by 1.35, with the other augmentations drawn anew.
TTA_PASSES, TTA_SCALE, TTA_BETA = 8, 1.35, 0.4
_FEW = 64


@dataclass(frozen=True, eq=False)
class Outputs:
    """What the network said.

    Attributes:
        logits: By condition, (n, c).
        features: Means of the last feature map (rows asked for, d); None if the network has none or none was wanted.
    """

    logits: Mapping[str, FloatArray]
    features: npt.NDArray[np.float32] | None


def infer(
    run: Run,
    files: Sequence[str],
    conditions: Mapping[str, Condition] | None = None,
    feature_rows: Collection[int] = (),
    workers: int | None = None,
    what: str = "Images",
) -> Outputs:
    """Run the network over images at the run's size, unaugmented.

    Args:
        run: The trained run.
        files: Image files.
        conditions: Changes of the resized pixels, by name; each is a further run over the images.
        feature_rows: Numbers of the images whose features are wanted.
        workers: Loader processes; None for what the machine has.
        what: Word for the progress bar.

    Raises:
        UserError: If an image cannot be read, or a logit is not finite.
    """
    changes = dict(conditions or {})
    logits: dict[str, list[FloatArray]] = {name: [] for name in (WHOLE, *changes)}
    features, first, wanted = [], 0, set(feature_rows)
    samples = [Sample(row, run.image_size, None) for row in range(len(files))]
    for images in _batches(run, files, samples, Augmentation(), workers, what):
        rows = [row - first for row in range(first, first + len(images)) if row in wanted]
        first += len(images)
        answer, seen = answer_batch(run, images, bool(rows))
        logits[WHOLE].append(answer)
        if seen is not None:
            features.append(seen[rows])
        for name, change in changes.items():
            changed = torch.from_numpy(change(images[:, 0].numpy())).unsqueeze(1)
            logits[name].append(answer_batch(run, changed)[0])
    joined = {name: _join(parts, len(run.class_names)) for name, parts in logits.items()}
    return Outputs(joined, np.concatenate(features) if features else None)


def infer_augmented(
    run: Run, files: Sequence[str], augment: Augmentation, seed: int, workers: int | None = None
) -> FloatArray:
    """Mean probabilities (n, c) over fastai's eight augmented views of every image.

    Args:
        run: The trained run.
        files: Image files.
        augment: The run's augmentation without zoom and mirroring, which the views themselves bring.
        seed: Seed of the augmentation.
        workers: Loader processes; None for what the machine has.
    """
    from scipy import special

    total = np.zeros((len(files), len(run.class_names)))
    for view in range(TTA_PASSES):
        samples = [Sample(row, run.image_size, (seed, view, row)) for row in range(len(files))]
        what = f"Augmented view {view + 1} of {TTA_PASSES}"
        batches = _batches(run, files, samples, augment, workers, what)
        answers = [answer_batch(run, corner_view(images, view))[0] for images in batches]
        total += special.softmax(_join(answers, len(run.class_names)), axis=1)
    return total / TTA_PASSES


def corner_view(images: Tensor, view: int, scale: float = TTA_SCALE) -> Tensor:
    """One of eight views of uint8 images (n, 1, s, s): a corner enlarged by ``scale``, from 4 on mirrored."""
    keep = 1 / scale
    shift = 1 - keep
    mirror = -1.0 if view & 4 else 1.0
    x, y = (shift if view & 1 else -shift), (shift if view & 2 else -shift)
    # The grid maps output to input coordinates; the mirroring comes last, so it is the first to be undone.
    matrix = torch.tensor([[mirror * keep, 0.0, x], [0.0, keep, y]]).expand(len(images), 2, 3)
    grid = F.affine_grid(matrix, list(images.shape), align_corners=False)
    return F.grid_sample(images.float(), grid, align_corners=False, padding_mode="border").round().to(torch.uint8)


def answer_batch(
    run: Run, images: Tensor, with_features: bool = False
) -> tuple[FloatArray, npt.NDArray[np.float32] | None]:
    """Logits (n, c) and, where wanted and there are any, features (n, d) of uint8 images (n, 1, s, s).

    A batch that does not fit into the accelerator's memory is halved.

    Raises:
        UserError: If a single image does not fit, or a logit is not finite.
    """
    caught: list[Tensor] = []
    body = getattr(run.module.network, "body", None) if with_features else None
    hook = body.register_forward_hook(lambda _m, _i, output: caught.append(output)) if body is not None else None
    try:
        with torch.inference_mode(), _precision(run):
            logits = run.module(images.to(run.device, non_blocking=True)).double().cpu().numpy()
    except torch.cuda.OutOfMemoryError:
        if len(images) == 1:
            raise UserError(f"one image of {run.image_size} pixels does not fit into the GPU's memory") from None
        half = len(images) // 2
        parts = [answer_batch(run, part, with_features) for part in (images[:half], images[half:])]
        seen = [part[1] for part in parts if part[1] is not None]
        return np.concatenate([part[0] for part in parts]), np.concatenate(seen) if seen else None
    finally:
        if hook is not None:
            hook.remove()
    if not np.isfinite(logits).all():
        raise UserError(f"the {run.checkpoint} checkpoint of {run.folder.path} gives numbers that are not finite")
    features = caught[0].float().mean(dim=(2, 3)).cpu().numpy() if caught and caught[0].ndim == 4 else None
    return logits, features


def plain_images(run: Run, files: Sequence[str]) -> Tensor:
    """Some images at the run's size, as uint8 (n, 1, s, s)."""
    dataset = XrayDataset(files, [0] * len(files), Augmentation(), run.base_size)
    return collate([dataset[Sample(row, run.image_size, None)] for row in range(len(files))])[0]


def _precision(run: Run) -> Any:
    kinds = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}
    kind = kinds.get(run.precision)
    # float16 is not computed in by CPUs; a run of mixed precision keeps float32 weights, so float32 is safe there.
    enabled = kind is not None and not (kind is torch.float16 and run.device.type == "cpu")
    return torch.autocast(run.device.type, dtype=kind or torch.bfloat16, enabled=enabled)


def _batches(
    run: Run,
    files: Sequence[str],
    samples: Sequence[Sample],
    augment: Augmentation,
    workers: int | None,
    what: str,
) -> Iterator[Tensor]:
    from rich.console import Console
    from rich.progress import track

    if not files:
        raise UserError("there are no images: the data set is empty")
    dataset = XrayDataset(files, [0] * len(files), augment, run.base_size)
    step = run.batch_size
    batches = [list(samples[first : first + step]) for first in range(0, len(samples), step)]
    # Starting processes takes longer than a few images.
    processes = 0 if len(files) <= _FEW else default_workers() if workers is None else workers
    loader: DataLoader[Any] = DataLoader(dataset, batch_sampler=batches, num_workers=processes, collate_fn=collate)
    console = Console(stderr=True)
    try:
        for images, _ in track(loader, what, len(batches), console=console, disable=not console.is_terminal):
            yield images
    except RuntimeError as error:
        # What a loader process raises comes back as a traceback in the words of a RuntimeError.
        if "ImageError: " not in str(error):
            raise
        raise UserError(str(error).strip().rsplit("ImageError: ", 1)[-1]) from None


def _join(parts: list[FloatArray], classes: int) -> FloatArray:
    return np.concatenate(parts) if parts else np.zeros((0, classes))
