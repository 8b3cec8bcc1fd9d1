"""Export a run's network as ONNX with its preprocessing inside, or as safetensors; checked against PyTorch."""

import contextlib
import io
import json
import logging
import warnings
from collections.abc import Mapping
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
from covid_xray.runs.calibration import calibrate
from covid_xray.runs.images import own_images, own_records
from covid_xray.runs.inference import image_reader
from covid_xray.runs.load import Run
from covid_xray.training.module import XrayClassifier

FORMATS = ("onnx", "safetensors")


def export_run(
    run: Run, output: Path, format: str | None = None, images: Tensor | None = None, tolerance: float = 1e-3
) -> float | None:
    """Write a file, read it again, and compare it with PyTorch on real images.

    Args:
        run: The trained run, on the CPU.
        output: The file. Safetensors get the metadata (.json) and the configuration (.yaml) beside them.
        format: ``onnx`` or ``safetensors``; None: by the ending of the file name.
        images: Images (n, 1, s, s), uint8, to compare on; None: 16 of `check_batch`.
        tolerance: Largest difference of a logit that is accepted.

    Returns:
        The largest difference of a logit; None if onnxruntime is not installed.

    Raises:
        UserError: If a library is missing, the file cannot be written, or it differs; it is then removed.
    """
    kind = format or output.suffix.removeprefix(".")
    if kind not in FORMATS:
        raise UserError(f"format must be onnx or safetensors, not {kind!r}")
    if run.device.type != "cpu":
        raise UserError("export needs a run on the CPU: load_run(folder, accelerator='cpu')")
    images, metadata = check_batch(run)[0] if images is None else images, _metadata(run)
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        write = _export_onnx if kind == "onnx" else _export_safetensors
        difference = write(run, metadata, images, output)
    except OSError as error:
        raise write_failure(output, error) from None
    if difference is not None and not difference <= tolerance:
        output.unlink()
        raise UserError(
            f"the exported network differs by {difference:.2g} in a logit (tolerance={tolerance}); the file was removed"
        )
    return difference


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
    """Logits and calibrated probabilities of grey images, preprocessing included.

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

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Logits and probabilities, both (n, classes), of uint8 images (n, 1, s, s)."""
        # As in the classifier, without the memory format, which ONNX does not have.
        logits = self.network((self.mask(images).float() / 255 - self.mean) / self.std)
        return logits, torch.softmax(logits / self.temperature, dim=1)


def write_onnx(network: Deployed, image_size: int, metadata: Mapping[str, Any], file: Path) -> None:
    """Write an ONNX file: input ``images``, outputs ``logits`` and ``probabilities``, any number of images.

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
                output_names=["logits", "probabilities"],
                dynamic_shapes=({0: torch.export.Dim("n", min=1)},),
            )
        assert program is not None
        model = program.model_proto
    except torch.onnx.errors.OnnxExporterError as error:
        raise UserError(f"this network cannot be exported to ONNX ({str(error).splitlines()[0]})") from None
    for key, value in metadata.items():
        model.metadata_props.add(key=key, value=value if isinstance(value, str) else json.dumps(value))
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


def _metadata(run: Run) -> dict[str, Any]:
    calibration = calibrate(run)[0]
    if calibration is None:
        print("Not calibrated: the run's validation images are not here, and it has no calibration.json")
    size, first = run.image_size, run.base_size
    way = f"to {first} and then to {size} pixels" if first != size else f"to {size} pixels"
    return {
        "classes": list(run.class_names),
        "image_size": size,
        "input": f"images: uint8 (n, 1, {size}, {size}), grey, 0 black to 255 white",
        "resizing": f"both sides resized {way}, aspect ratio ignored: area average when shrinking, else bilinear",
        "normalisation": "inside: x / 255, minus mean, over std, the grey channel three times",
        "mean": [round(float(value), 9) for value in run.module.mean.flatten()],
        "std": [round(float(value), 9) for value in run.module.std.flatten()],
        "temperature": calibration.temperature.value if calibration is not None else 1.0,
        "calibrated": calibration is not None,
        "checkpoint": f"{run.checkpoint}.ckpt, SHA-256 {run.checkpoint_sha256}",
        "commit": provenance.commit(),
        "libraries": provenance.versions(),
        "use": "Research only: not a medical device, not for diagnosis.",
    }


def _logits(run: Run, images: Tensor) -> Tensor:
    with torch.inference_mode():
        answer: Tensor = run.module(images)
    return answer


def _export_onnx(run: Run, metadata: dict[str, Any], images: Tensor, output: Path) -> float | None:
    write_onnx(Deployed(run.module, metadata["temperature"]).eval(), run.image_size, metadata, output)
    # One image and all of them: the batch is dynamic.
    answers = [run_onnx(output, part.numpy()) for part in (images, images[:1])]
    expected = _logits(run, images).numpy()
    differences = []
    for answer in answers:
        if answer is None:
            return None
        differences.append(np.abs(answer[0] - expected[: len(answer[0])]).max())
    return float(max(differences))


def _export_safetensors(run: Run, metadata: dict[str, Any], images: Tensor, output: Path) -> float:
    expected = _logits(run, images)
    state = {name: tensor.contiguous() for name, tensor in run.module.state_dict().items()}
    text = {key: value if isinstance(value, str) else json.dumps(value) for key, value in metadata.items()}
    write_atomically(output, save(state, text))
    write_atomically(output.with_suffix(".json"), json.dumps(metadata, indent=2) + "\n")
    write_atomically(output.with_suffix(".yaml"), OmegaConf.to_yaml(OmegaConf.create(run.config)))
    run.module.load_state_dict(load_file(output))
    return float((_logits(run, images) - expected).abs().max())
