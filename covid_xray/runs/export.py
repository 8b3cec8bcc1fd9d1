"""Export a run's network as ONNX with its preprocessing inside, or as safetensors; checked against PyTorch."""

import contextlib
import io
import json
import logging
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from omegaconf import OmegaConf
from safetensors.torch import load_file, save
from torch import Tensor, nn

from covid_xray.errors import UserError
from covid_xray.files import atomic_write, write_atomically, write_failure
from covid_xray.runs import provenance
from covid_xray.runs.calibration import Calibration
from covid_xray.runs.images import crop_settings, own_images, own_records
from covid_xray.runs.inference import image_reader
from covid_xray.runs.load import Run
from covid_xray.runs.predict import Predictor
from covid_xray.runs.quantise import quantise_onnx
from covid_xray.training.module import XrayClassifier

FORMATS = ("onnx", "safetensors")
CALIBRATION_IMAGES, MOST_CHANGED = 128, 0.1  # of export_int8


def export_run(
    runs: Run | Sequence[Run],
    output: Path,
    format: str | None = None,
    images: Tensor | None = None,
    tolerance: float = 1e-3,
) -> float | None:
    """Write a file, read it again, and compare it with PyTorch on real images.

    Args:
        runs: The trained run on the CPU, or several whose calibrated probabilities the ONNX file averages.
        output: The file. Safetensors get the metadata (.json) and the configuration (.yaml) beside them.
        format: ``onnx`` or ``safetensors``; None: by the ending of the file name.
        images: Images (n, 1, s, s), uint8, to compare on; None: 16 of `check_batch`.
        tolerance: Largest difference that is accepted.

    Returns:
        The largest difference of a logit, of several runs of a probability; None if onnxruntime is not installed.

    Raises:
        UserError: If a library is missing, the file cannot be written, it differs (it is then removed), or the runs do
            not fit one file.
    """
    members = (runs,) if isinstance(runs, Run) else tuple(runs)
    kind = format or output.suffix.removeprefix(".")
    if kind not in FORMATS:
        raise UserError(f"format must be onnx or safetensors, not {kind!r}")
    calibrations = check_members(members)
    if len(members) > 1 and kind == "safetensors":
        raise UserError("format=safetensors holds one network; use format=bundle or format=onnx for several runs")
    sizes = {(run.base_size, run.image_size) for run in members}
    if len(sizes) > 1:
        raise UserError(f"one ONNX file needs runs of one image size, not {sorted(sizes)}; use format=bundle")
    first, images = members[0], check_batch(members[0])[0] if images is None else images
    metadata = describe(first, calibrations[0] if calibrations else None)
    if len(members) > 1:
        metadata |= _describe_average(members)
    temperatures = [calibration.temperature.value for calibration in calibrations] or [1.0]
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        if kind == "onnx":
            difference = _export_onnx(members, temperatures, metadata, images, output)
        else:
            difference = _export_safetensors(first, metadata, images, output)
    except OSError as error:
        raise write_failure(output, error) from None
    if difference is not None:
        check_difference(difference, tolerance, output)
    return difference


def spread(n: int, most: int) -> list[int]:
    """At most ``most`` of ``n`` positions, evenly spread: images are sorted by path, so the first are of one class."""
    return np.linspace(0, n - 1, min(n, most)).round().astype(int).tolist()  # type: ignore[no-any-return]


def export_int8(
    runs: Run | Sequence[Run], output: Path, images: Tensor | None = None, tolerance: float = 1e-3
) -> tuple[float, int]:
    """Write an ONNX file in 8-bit integers, calibrated on validation images, and compare it with the exact one.

    Args:
        runs: See `export_run`.
        output: The file.
        images: Images (n, 1, s, s), uint8, to compare on; None: 16 of `check_batch`.
        tolerance: Largest difference between the exact file and PyTorch that is accepted.

    Returns:
        The largest difference of a probability, and the number of images whose class changes.

    Raises:
        UserError: As `export_run`, if the validation images of the (first) run are not here, or if the class of more
            than `MOST_CHANGED` of the images changes; the file is then removed.
    """
    first = runs if isinstance(runs, Run) else runs[0]
    images = check_batch(first)[0] if images is None else images
    files = list(own_images(first, own_records(first), "val")["file"])
    read = image_reader(first)
    seen = np.stack([read(files[row]) for row in spread(len(files), CALIBRATION_IMAGES)])[:, None]
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        # Beside the output, because the system's folder may be small.
        with tempfile.TemporaryDirectory(dir=output.parent) as folder:
            exact = Path(folder) / "exact.onnx"
            if export_run(runs, exact, "onnx", images, tolerance) is None:
                raise UserError("int8=true needs onnxruntime: pip install 'covid-xray[export]'")
            quantise_onnx(exact, output, seen)
            before, after = (run_onnx(file, images.numpy()) for file in (exact, output))
    except OSError as error:
        raise write_failure(output, error) from None
    assert before is not None
    assert after is not None
    changed = int((before[1].argmax(axis=1) != after[1].argmax(axis=1)).sum())
    if changed > MOST_CHANGED * len(images):
        output.unlink()
        raise UserError(
            f"8-bit integers change the class of {changed} of {len(images)} images, so the file was removed; use "
            f"int8=false"
        )
    return float(np.abs(before[1] - after[1]).max()), changed


def check_members(runs: Sequence[Run]) -> list[Calibration]:
    """Check that runs can be exported together.

    Returns:
        Their calibrations; empty for a single run without one.

    Raises:
        UserError: If a run is on another device than the CPU, or one of several is not calibrated or has other classes.
    """
    if any(run.device.type != "cpu" for run in runs):
        raise UserError("export needs a run on the CPU: load_run(folder, accelerator='cpu')")
    return list(Predictor.create(runs).calibrations)


def check_difference(difference: float, tolerance: float, file: Path) -> None:
    """Check an exported file.

    Raises:
        UserError: If it differs by more than the tolerance, or by nan; the file is removed.
    """
    if not difference <= tolerance:
        file.unlink()
        raise UserError(
            f"the exported network differs by {difference:.2g} in a logit (tolerance={tolerance}); the file was removed"
        )


def largest_difference(run: Run, other: Run, images: Tensor) -> float:
    """Largest difference of a logit between two runs on images (n, 1, s, s), uint8."""
    return float((_logits(run, images) - _logits(other, images)).abs().max())


def check_batch(run: Run, count: int = 16) -> tuple[Tensor, str]:
    """Images (n, 1, s, s), uint8, to compare on, and what they are: test images, or noise without the run's data."""
    try:
        files = list(own_images(run, own_records(run), "test")["file"])[:count]
        return torch.from_numpy(np.stack([image_reader(run)(file) for file in files])).unsqueeze(1), "test images"
    except UserError:
        random = torch.Generator().manual_seed(0)
        shape = (count, 1, run.image_size, run.image_size)
        noise = torch.randint(0, 256, shape, dtype=torch.uint8, generator=random)
        return noise, "random images (no test images here)"


class Deployed(nn.Module):
    """Logits, calibrated probabilities and pooled features of grey images, preprocessing included.

    Args:
        module: The classifier.
        temperature: What logits are divided by before the softmax.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, module: XrayClassifier, temperature: float) -> None:
        super().__init__()
        self.network, self.mask, self.temperature = module.network, module.mask, temperature
        self.register_buffer("mean", module.mean.detach().clone())
        self.register_buffer("std", module.std.detach().clone())

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Logits and probabilities, both (n, classes), and features (n, d), of uint8 images (n, 1, s, s)."""
        network: Any = self.network
        # As in the classifier, without the memory format, which ONNX does not have.
        maps = network.features((self.mask(images).float() / 255 - self.mean) / self.std)
        logits = network.head(maps)
        features = maps.mean(dim=(2, 3) if maps.ndim == 4 else 1)  # for the out-of-distribution score
        return logits, torch.softmax(logits / self.temperature, dim=1), features


class Averaged(nn.Module):
    """Mean of the probabilities of several networks, and its logarithm in place of logits.

    Args:
        networks: Networks of the same classes and image size.
    """

    def __init__(self, networks: Sequence[Deployed]) -> None:
        super().__init__()
        self.networks = nn.ModuleList(networks)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Logarithms and probabilities, both (n, classes), of uint8 images (n, 1, s, s)."""
        probabilities = torch.stack([network(images)[1] for network in self.networks]).mean(dim=0)
        return probabilities.clamp_min(1e-12).log(), probabilities


def write_onnx(network: nn.Module, image_size: int, metadata: Mapping[str, Any], file: Path) -> None:
    """Write an ONNX file: input ``images``, outputs ``logits`` and ``probabilities``, any number of images.

    The file of a single network also has the output ``features``.

    Args:
        network: On the CPU, in evaluation mode.
        image_size: Side of the images.
        metadata: What a user of the file must know; values that are no text are written as JSON.
        file: The output file.

    Raises:
        UserError: If the libraries are missing or the network cannot be expressed in ONNX.
    """
    try:
        import onnx
        import onnxscript  # noqa: F401 torch imports it late
    except ImportError as error:
        raise UserError(f"format=onnx needs {error.name}: pip install 'covid-xray[export]'") from None
    example = torch.zeros(2, 1, image_size, image_size, dtype=torch.uint8)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            logging.getLogger("torch.onnx").setLevel(logging.ERROR)
            logging.getLogger("onnxscript").setLevel(logging.ERROR)
            program = torch.onnx.export(
                network,
                (example,),
                dynamo=True,
                verbose=False,
                input_names=["images"],
                output_names=["logits", "probabilities", *(["features"] if isinstance(network, Deployed) else [])],
                dynamic_shapes=({0: torch.export.Dim("n", min=1)},),
            )
        assert program is not None
        model = program.model_proto
    except torch.onnx.errors.OnnxExporterError as error:
        raise UserError(f"this network cannot be exported to ONNX ({str(error).splitlines()[0]})") from None
    for key, value in metadata_text(metadata).items():
        model.metadata_props.add(key=key, value=value)
    onnx.checker.check_model(model)
    with atomic_write(file) as draft:
        onnx.save_model(model, str(draft))


def run_onnx(
    file: Path, images: npt.NDArray[np.uint8]
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]] | None:
    """Logits and probabilities by onnxruntime on the CPU; None where it is not installed."""
    try:
        import onnxruntime
    except ImportError:
        return None
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    logits, probabilities = session.run(["logits", "probabilities"], {"images": images})
    return logits, probabilities


def describe(run: Run, calibration: Calibration | None) -> dict[str, Any]:
    """What a user of exported weights must know, by name."""
    if calibration is None:
        print("Not calibrated: the run's validation images are not here, and it has no calibration.json")
    size, first = run.image_size, run.base_size
    way = f"to {first} and then to {size} pixels" if first != size else f"to {size} pixels"
    return {
        "classes": list(run.class_names),
        "image_size": size,
        "input": f"images: uint8 (n, 1, {size}, {size}), grey, 0 black to 255 white",
        **({"crop": crop} if (crop := crop_settings(run)) else {}),  # before resizing
        "resizing": f"both sides resized {way}, aspect ratio ignored: area average when shrinking, else bilinear",
        "normalisation": "inside: x / 255, minus mean, over std, the grey channel three times",
        "mean": [float(f"{value:.9g}") for value in run.module.mean.flatten().tolist()],
        "std": [float(f"{value:.9g}") for value in run.module.std.flatten().tolist()],
        "temperature": calibration.temperature.value if calibration is not None else 1.0,
        "calibrated": calibration is not None,
        "checkpoint": run.checkpoint_text,
        "commit": provenance.commit(),
        "libraries": provenance.versions(),
        "use": "Research only: not a medical device, not for diagnosis.",
    }


def _describe_average(runs: Sequence[Run]) -> dict[str, Any]:
    """What differs in the metadata of several runs as one."""
    return {
        "logits": "logarithm of the mean probability",
        "temperature": 1.0,
        "normalisation": "inside",
        "mean": None,
        "std": None,
        "members": len(runs),
        "checkpoint": [run.checkpoint_text for run in runs],
    }


def metadata_text(metadata: Mapping[str, Any]) -> dict[str, str]:
    """Metadata as the header of a safetensors file takes it: values that are no text become JSON."""
    return {key: value if isinstance(value, str) else json.dumps(value) for key, value in metadata.items()}


def _logits(run: Run, images: Tensor) -> Tensor:
    with torch.inference_mode():
        answer: Tensor = run.module(images)
    return answer


def _export_onnx(
    runs: Sequence[Run], temperatures: Sequence[float], metadata: dict[str, Any], images: Tensor, output: Path
) -> float | None:
    parts = [Deployed(run.module, value) for run, value in zip(runs, temperatures, strict=True)]
    write_onnx((parts[0] if len(parts) == 1 else Averaged(parts)).eval(), runs[0].image_size, metadata, output)
    expected, compared = [_logits(run, images) for run in runs], 0
    if len(runs) > 1:
        expected, compared = [torch.softmax(part / t, dim=1) for part, t in zip(expected, temperatures, strict=True)], 1
    mean = torch.stack(expected).mean(dim=0).numpy()
    # One image and all of them: the batch is dynamic.
    answers = [run_onnx(output, part.numpy()) for part in (images, images[:1])]
    differences = [
        np.abs(found[compared] - mean[: len(found[compared])]).max() for found in answers if found is not None
    ]
    return float(max(differences)) if differences else None


def _export_safetensors(run: Run, metadata: dict[str, Any], images: Tensor, output: Path) -> float:
    expected = _logits(run, images)
    state = {name: tensor.contiguous() for name, tensor in run.module.state_dict().items()}
    write_atomically(output, save(state, metadata_text(metadata)))
    write_atomically(output.with_suffix(".json"), json.dumps(metadata, indent=2) + "\n")
    write_atomically(output.with_suffix(".yaml"), OmegaConf.to_yaml(OmegaConf.create(run.config)))
    run.module.load_state_dict(load_file(output))
    return float((_logits(run, images) - expected).abs().max())
