"""Export a run's network as ONNX with its preprocessing inside, or as safetensors; checked against PyTorch."""

from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from covid_xray.errors import UserError
from covid_xray.runs.config import check_run


def run(cfg: DictConfig) -> None:
    """Write the file, read it again, and print how far it is from PyTorch on real images."""
    _check(cfg)
    folder = check_run(cfg.run, cfg.checkpoint, cfg.trust)[0]
    output = Path(cfg.output) if cfg.output else folder.export(f"model.{cfg.format}")
    from covid_xray.runs.export import check_batch, export_run
    from covid_xray.runs.load import load_run

    trained = load_run(cfg.run, cfg.checkpoint, "cpu", cfg.trust)
    images, kind = check_batch(trained, cfg.check_images)
    difference = export_run(trained, output, cfg.format, images, cfg.tolerance)
    if difference is None:
        print(f"{output}: not checked, because onnxruntime is not installed")
        return
    print(f"{output}: largest difference from PyTorch {difference:.2g} in a logit, on {len(images)} {kind}")
    print("Research only: not for diagnosis.")


def _check(cfg: DictConfig) -> None:
    if OmegaConf.is_missing(cfg, "run"):
        raise UserError("run must be given: add run=RUN_FOLDER to the command")
    if cfg.format not in ("onnx", "safetensors"):
        raise UserError(f"format must be onnx or safetensors, not {cfg.format!r}")
    count, tolerance = cfg.check_images, cfg.tolerance
    if isinstance(count, bool) or not isinstance(count, int) or count < 1:
        raise UserError(f"check_images must be a whole number of at least 1, not {count!r}")
    if isinstance(tolerance, bool) or not isinstance(tolerance, int | float) or not tolerance > 0:
        raise UserError(f"tolerance must be a number above 0, not {tolerance!r}")
