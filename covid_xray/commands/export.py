"""Export a run as ONNX with its preprocessing inside, as safetensors, or as a bundle for sharing; checked."""

from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from covid_xray.errors import UserError
from covid_xray.imports import quick_imports
from covid_xray.runs.config import check_run
from covid_xray.runs.folder import RunFolder
from covid_xray.runs.pooling import member_runs


def run(cfg: DictConfig) -> None:
    """Write the file or folder, read it again, and print how far it is from PyTorch on real images."""
    _check(cfg)
    runs = member_runs(cfg.run)
    for run in runs:
        check_run(run, cfg.checkpoint, cfg.trust)
    folder = RunFolder(Path("outputs/ensemble") if OmegaConf.is_list(cfg.run) else Path(str(cfg.run)))
    output = (
        Path(str(cfg.output))
        if cfg.output
        else folder.export("bundle" if cfg.format == "bundle" else f"model{'-int8' * cfg.int8}.{cfg.format}")
    )
    with quick_imports():
        from covid_xray.runs.export import check_batch, export_int8, export_run
        from covid_xray.runs.load import load_run

    loaded = [load_run(run, cfg.checkpoint, "cpu", cfg.trust) for run in runs]
    images, kind = check_batch(loaded[0], cfg.check_images)
    if cfg.int8:
        largest, changed = export_int8(loaded, output, images, cfg.tolerance)
        print(f"{output}: largest difference of a probability {largest:.2g}, on {len(images)} {kind}")
        print(f"Their class changes in {changed} of {len(images)}.\nResearch only: not for diagnosis.")
        return
    difference: float | None
    if cfg.format == "bundle":
        from covid_xray.reporting.bundle_card import write_bundle

        difference = write_bundle(loaded, output, cfg.license, images, cfg.tolerance)
    else:
        difference = export_run(loaded, output, cfg.format, images, cfg.tolerance)
    if difference is None:
        print(f"{output}: not checked, because onnxruntime is not installed")
        return
    print(f"{output}: largest difference from PyTorch {difference:.2g}, on {len(images)} {kind}")
    print("Research only: not for diagnosis.")


def _check(cfg: DictConfig) -> None:
    if OmegaConf.is_missing(cfg, "run"):
        raise UserError("run must be given: add run=RUN_FOLDER to the command")
    if cfg.format not in ("onnx", "safetensors", "bundle"):
        raise UserError(f"format must be onnx, safetensors or bundle, not {cfg.format!r}")
    if not isinstance(cfg.int8, bool) or (cfg.int8 and cfg.format != "onnx"):
        raise UserError(f"int8 must be false, or true with format=onnx, not {cfg.int8!r} with format={cfg.format}")
    count, tolerance = cfg.check_images, cfg.tolerance
    if isinstance(count, bool) or not isinstance(count, int) or count < 1:
        raise UserError(f"check_images must be a whole number of at least 1, not {count!r}")
    if isinstance(tolerance, bool) or not isinstance(tolerance, int | float) or not tolerance > 0:
        raise UserError(f"tolerance must be a number above 0, not {tolerance!r}")
