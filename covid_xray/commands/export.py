"""Export a run's network as ONNX with its preprocessing inside, or as safetensors; checked against PyTorch."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf

from covid_xray.errors import UserError
from covid_xray.files import atomic_write, write_atomically
from covid_xray.runs.load import check_run, load_run

if TYPE_CHECKING:
    import torch

    from covid_xray.runs.load import Run

FORMATS = ("onnx", "safetensors")


def run(cfg: DictConfig) -> None:
    """Write the file, read it again, and say how far it is from PyTorch on real images."""
    _check(cfg)
    folder = check_run(cfg.run, cfg.checkpoint, cfg.trust)[0]
    output = Path(cfg.output) if cfg.output else folder.path / "export" / f"model.{cfg.format}"
    trained = load_run(cfg.run, cfg.checkpoint, "cpu", cfg.trust)
    images, words = _real_images(trained, cfg.check_images)
    metadata = _metadata(trained)
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        if cfg.format == "onnx":
            difference = _export_onnx(trained, metadata, images, output)
        else:
            difference = _export_safetensors(trained, metadata, images, output)
    except OSError as error:
        raise UserError(f"output={output} cannot be written: {error.strerror or error}") from None
    if difference is None:
        print(f"{output}: not checked, as onnxruntime is not installed")
        return
    if not difference <= cfg.tolerance:
        output.unlink()
        raise UserError(
            f"the exported network is off by {difference:.2g} in a logit (tolerance={cfg.tolerance}); it was removed"
        )
    print(f"{output}: largest difference from PyTorch {difference:.2g} in a logit, on {len(images)} {words}")
    print("Research only: not for diagnosis.")


def _check(cfg: DictConfig) -> None:
    if OmegaConf.is_missing(cfg, "run"):
        raise UserError("run must be given: add run=RUN_FOLDER to the command")
    if cfg.format not in FORMATS:
        raise UserError(f"format must be onnx or safetensors, not {cfg.format!r}")
    count, tolerance = cfg.check_images, cfg.tolerance
    if isinstance(count, bool) or not isinstance(count, int) or count < 1:
        raise UserError(f"check_images must be a whole number of at least 1, not {count!r}")
    if isinstance(tolerance, bool) or not isinstance(tolerance, int | float) or not tolerance > 0:
        raise UserError(f"tolerance must be a number above 0, not {tolerance!r}")


def _real_images(run: "Run", count: int) -> tuple["torch.Tensor", str]:
    """Test images of the run; drawn noise where its data is not here."""
    import torch

    from covid_xray.runs.images import own_images, read_records
    from covid_xray.runs.inference import plain_images

    try:
        table = own_images(run.splits, read_records(run.cfg.data), "test")
        return plain_images(run, list(table["file"])[:count]), "test images"
    except UserError:
        random = torch.Generator().manual_seed(0)
        shape = (count, 1, run.image_size, run.image_size)
        return torch.randint(0, 256, shape, dtype=torch.uint8, generator=random), "random images (no test images here)"


def _metadata(run: "Run") -> dict[str, Any]:
    from covid_xray.runs.calibration import calibration_of
    from covid_xray.runs.images import read_records
    from covid_xray.runs.provenance import commit, versions

    calibration = calibration_of(run, None)[0]
    if calibration is None:
        try:
            calibration = calibration_of(run, read_records(run.cfg.data))[0]
        except UserError:
            print("Not calibrated: the run's validation images are not here, and it has no calibration.json")
    size, first = run.image_size, run.base_size
    way = f"to {first} and then to {size} pixels" if first != size else f"to {size} pixels"
    return {
        "classes": list(run.class_names),
        "image_size": size,
        "input": f"images: uint8 (n, 1, {size}, {size}), grey, 0 black to 255 white",
        "resizing": f"both sides resized {way}, whatever the aspect ratio: area average when shrinking, else bilinear",
        "normalisation": "inside: x / 255, minus mean, over std, the grey channel three times",
        "mean": [round(float(value), 9) for value in run.module.mean.flatten()],
        "std": [round(float(value), 9) for value in run.module.std.flatten()],
        "temperature": calibration.temperature.value if calibration is not None else 1.0,
        "calibrated": calibration is not None,
        "checkpoint": f"{run.checkpoint}.ckpt, SHA-256 {run.checkpoint_sha256}",
        "commit": commit(),
        "libraries": versions(),
        "use": "Research only: not a medical device, not for diagnosis.",
    }


def _logits(run: "Run", images: "torch.Tensor") -> "torch.Tensor":
    import torch

    with torch.inference_mode():
        answer: torch.Tensor = run.module(images)
    return answer


def _export_onnx(run: "Run", metadata: dict[str, Any], images: "torch.Tensor", output: Path) -> float | None:
    import numpy as np

    from covid_xray.runs.onnx_file import Deployed, run_onnx, write_onnx

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


def _export_safetensors(run: "Run", metadata: dict[str, Any], images: "torch.Tensor", output: Path) -> float:
    from safetensors.torch import load_file, save_file

    expected = _logits(run, images)
    state = {name: tensor.contiguous() for name, tensor in run.module.state_dict().items()}
    text = {key: value if isinstance(value, str) else json.dumps(value) for key, value in metadata.items()}
    with atomic_write(output) as draft:
        save_file(state, draft, metadata=text)
    write_atomically(output.with_suffix(".json"), json.dumps(metadata, indent=2) + "\n")
    write_atomically(output.with_suffix(".yaml"), OmegaConf.to_yaml(run.cfg, resolve=True))
    run.module.load_state_dict(load_file(output))
    return float((_logits(run, images) - expected).abs().max())
