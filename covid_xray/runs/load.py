"""A trained run: its configuration, classes and weights, and what can be done with it.

A run folder may come from anyone. Its checkpoint is read as tensors only, and its configuration may name this
project's code only, unless the user trusts it.
"""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from torch import nn

from covid_xray.errors import UserError
from covid_xray.hardware import accelerator as best_accelerator
from covid_xray.hardware import best_precision
from covid_xray.networks.archive import archive_fault
from covid_xray.networks.folding import fold_batchnorm as fold
from covid_xray.networks.weights import Weights, read_weights
from covid_xray.runs.config import Config, build, check_run, select
from covid_xray.runs.folder import RunFolder
from covid_xray.runs.provenance import file_hash
from covid_xray.schedule import Schedule
from covid_xray.training.module import XrayClassifier

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from covid_xray.runs.evaluate import EvaluationResult


@dataclass(frozen=True, eq=False)
class Run:
    """A trained run.

    Attributes:
        folder: Its files.
        config: The configuration that it began with, plain types.
        checkpoint: ``best`` or ``last``.
        splits: Its ``splits.csv``: path, label, patient_id, source and split of every image; empty without that file.
        module: The classifier in evaluation mode, on the device.
        image_size: Side of the last phase's images, in pixels.
        base_size: Side to which training resized every image first: the largest phase's.
        batch_size: The last phase's batch size.
        device: The device of the classifier.
        precision: Lightning's name of the precision.
        trust: Whether the user trusts the run; without, nothing is written at a place that its configuration names,
            except below the current folder.
        folded: Whether BatchNorm is folded into the convolutions; the answers then differ slightly.
        session: Session of onnxruntime that computes in the place of the classifier; see `with_onnx`.
    """

    folder: RunFolder
    config: Config
    checkpoint: str
    splits: pd.DataFrame
    module: XrayClassifier
    image_size: int
    base_size: int
    batch_size: int
    device: torch.device
    precision: str
    trust: bool = False
    folded: bool = False
    session: Any = None

    @property
    def class_names(self) -> tuple[str, ...]:
        """Classes in the order of the logits."""
        return tuple(self.module.class_names)

    @cached_property
    def checkpoint_sha256(self) -> str:
        """SHA-256 of the checkpoint file."""
        return file_hash(self.folder.checkpoint(self.checkpoint))

    @property
    def checkpoint_text(self) -> str:
        """Name and SHA-256 of the checkpoint file, for reports."""
        return f"{self.folder.checkpoint(self.checkpoint).name}, SHA-256 {self.checkpoint_sha256}"

    @property
    def metrics(self) -> dict[str, float]:
        """Final metrics of the training, as in ``metrics.json``; empty if the run is not finished."""
        return self.folder.finished_metrics() or {}

    def writable(self, place: object) -> Path | None:
        """A place that the configuration names, if something may be written there; else None."""
        if not isinstance(place, str) or not (self.trust or Path(place).resolve().is_relative_to(Path.cwd())):
            return None
        return Path(place)

    def evaluate(self, records: pd.DataFrame | None = None, **settings: Any) -> "EvaluationResult":
        """Evaluate on the run's own test images, or on other records; see `covid_xray.runs.evaluate.evaluate_run`."""
        from covid_xray.runs.evaluate import evaluate_run

        return evaluate_run(self, records, **settings)

    def predict(
        self,
        images: Sequence[str | Path | np.ndarray[Any, Any]],
        confidence: float | None = None,
        shares: str | Mapping[str, float] | None = None,
    ) -> pd.DataFrame:
        """Class, calibrated probabilities, out-of-distribution score and flags of images.

        See `covid_xray.runs.predict.predict_images`.
        """
        from covid_xray.runs.predict import predict_images

        return predict_images(self, images, confidence, shares)

    def show_results(self, n: int = 12, seed: int = 0) -> "Figure":
        """Plot random test images with their true and predicted class."""
        from covid_xray.runs.evaluate import results_figure

        return results_figure(self, n, seed)

    def plot_top_losses(self, n: int = 8) -> "Figure":
        """Plot the test images with the highest cross-entropy."""
        from covid_xray.runs.evaluate import top_losses_figure

        return top_losses_figure(self, n)

    def export(self, output: str | Path, format: str | None = None, **settings: Any) -> float | None:
        """Export as ONNX or safetensors; see `covid_xray.runs.export.export_run`."""
        from covid_xray.runs.export import export_run

        return export_run(self, Path(output), format, **settings)


def load_run(
    run: str | Path,
    checkpoint: str | None = None,
    accelerator: str = "auto",
    trust: bool = False,
    network: nn.Module | None = None,
    fold_batchnorm: bool = False,
) -> Run:
    """Load a run's network with its weights, in evaluation mode.

    Args:
        run: The run folder, or a bundle.
        checkpoint: ``best``, ``last``, or None for the one that the run itself was tested with.
        accelerator: ``auto``, ``cpu``, ``gpu`` or ``mps``.
        trust: Whether the configuration may name code outside this project, and any place to write at.
        network: A network to load the weights into; None: make it from the configuration.
        fold_batchnorm: Whether to fold BatchNorm into the convolutions, which is faster; see
            `covid_xray.networks.folding`.

    Raises:
        UserError: As `check_run`, and if the checkpoint is damaged, holds more than tensors, or does not fit, or if
            BatchNorm cannot be folded.
    """
    trust = trust or network is not None  # the network is the user's own code
    folder, config, name, splits = check_run(run, checkpoint, trust)
    schedule: Schedule = build(config, "schedule")
    file = folder.checkpoint(name)
    weights = _read_weights(file)
    classes = list(weights.class_names) or sorted(splits["label"].unique())  # older checkpoints have no class names
    if not classes:
        raise UserError(f"{file} has no class names, and {folder.splits} is missing; restore it")
    if len(splits) and set(splits["label"]) != set(classes):
        raise UserError(f"{folder.splits} does not fit {file}, whose classes are {', '.join(classes)}; restore it")
    if network is None:
        network = build(config, "model", num_classes=len(classes))
    module = XrayClassifier(network, schedule, classes, mask_centre=config.get("mask_centre"))
    try:
        module.load_weights(weights.state)
    except RuntimeError as error:
        reason = " ".join(str(error).splitlines()[-1].split())
        raise UserError(f"{file} does not fit the run's model and classes ({reason[:200]})") from None
    device = torch_device(accelerator)
    precision = str(select(config, "trainer.precision") or "auto")
    if precision == "auto":
        precision = best_precision(device.type)
    phase = list(schedule.phases.values())[-1]
    module.eval()
    if fold_batchnorm:
        fold(module.network)
        module.network.to(memory_format=torch.channels_last)
    module = module.to(device).requires_grad_(False)
    return Run(
        folder,
        config,
        name,
        splits,
        module,
        phase.image_size,
        schedule.max_image_size,
        phase.batch_size,
        device,
        precision,
        trust,
        fold_batchnorm,
    )


def with_onnx(run: Run, file: Path) -> Run:
    """A run whose logits and features onnxruntime computes from its exported file, on the CPU.

    Args:
        run: The run.
        file: What `covid_xray.runs.export.export_run` or ``export_int8`` wrote.

    Raises:
        UserError: If onnxruntime or the file is missing, or the file is of other weights.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise UserError(f"backend=onnx needs {error.name}: pip install 'covid-xray[export]'") from None
    remedy = f"make it with covid-xray export run={run.folder.path} checkpoint={run.checkpoint} output={file}"
    if not file.is_file():
        raise UserError(f"{file} does not exist; {remedy}")
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors
    try:
        session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
        # A file that computes something else is found here, before any image.
        black = np.zeros((1, 1, run.image_size, run.image_size), np.uint8)
        logits, features = session.run(["logits", "features"], {"images": black})
        fits = logits.shape == (1, len(run.class_names)) and features.ndim == 2
    except Exception as error:  # onnxruntime's classes derive from Exception only
        raise UserError(f"{file} is damaged ({' '.join(str(error).split())[:200]}); {remedy}") from None
    if session.get_modelmeta().custom_metadata_map.get("checkpoint") != run.checkpoint_text or not fits:
        raise UserError(f"{file} is of other weights than {run.folder.path}, or of an earlier version; {remedy}")
    return replace(run, session=session, precision=f"onnx {file_hash(file)}")


def tta_augmentation(config: Mapping[str, Any]) -> Any:
    """The run's augmentation without zoom and flip, which the views of test-time augmentation bring themselves."""
    settings = {"transforms": [], **config["augment"]}
    if not isinstance(settings["transforms"], list) or not all(isinstance(t, Mapping) for t in settings["transforms"]):
        raise UserError("augment.transforms of the run must be a list of mappings with a _target_")
    fixed = {"zoom": 1.0, "flip_p": 0.0}
    transforms = [
        {**transform, **{key: value for key, value in fixed.items() if key in transform}}
        for transform in settings["transforms"]
    ]
    return build({"augment": {**settings, "transforms": transforms}}, "augment")


def _read_weights(file: Path) -> Weights:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns of a pickle before it refuses it
        weights = read_weights(file)
    if file.suffix == ".ckpt" and (reason := archive_fault(file)):
        raise UserError(f"{file} is damaged ({reason}); restore it, or train again with resume=never")
    return weights


def torch_device(accelerator: str) -> torch.device:
    """The device that a name stands for.

    Args:
        accelerator: ``auto``, ``cpu``, ``gpu``, ``cuda`` or ``mps``.

    Raises:
        UserError: If the name is unknown, or this machine has no such device.
    """
    names = {"auto": best_accelerator(), "cpu": "cpu", "gpu": "cuda", "cuda": "cuda", "mps": "mps"}
    if accelerator not in names:
        raise UserError(f"accelerator must be auto, cpu, gpu or mps, not {accelerator!r}")
    device = torch.device(names[accelerator])
    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if not available[device.type]:
        raise UserError(f"accelerator={accelerator}: this machine has none")
    return device
