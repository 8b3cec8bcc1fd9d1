"""Evaluate a run: figures of merit with intervals, calibration, where it looks, whether it cheats; one report."""

from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from covid_xray.errors import UserError
from covid_xray.runs.folder import RunFolder
from covid_xray.runs.load import check_name


def run(cfg: DictConfig) -> None:
    """Evaluate one run, or all runs of a cross-validation together."""
    _check(cfg)
    parts = sweep_parts(Path(cfg.run))
    if parts:
        from covid_xray.runs.pooling import pool

        pool(cfg, parts)
    else:
        from covid_xray.commands.one_run import evaluate

        evaluate(cfg)


def sweep_parts(path: Path) -> list[Path]:
    """Folders of the finished runs in a folder that is no run itself, by name; none for a run."""
    if RunFolder(path).config.is_file() or not path.is_dir():
        return []
    return sorted(file.parent for file in path.glob("*/metrics.json") if RunFolder(file.parent).config.is_file())


def _check(cfg: DictConfig) -> None:
    if OmegaConf.is_missing(cfg, "run"):
        raise UserError("run must be given: add run=RUN_FOLDER to the command")
    if cfg.split not in ("train", "val", "test"):
        raise UserError(f"split must be train, val or test, not {cfg.split!r}")
    for key in ("tta", "saliency", "trust"):
        if not isinstance(cfg[key], bool):
            raise UserError(f"{key} must be true or false, not {cfg[key]!r}")
    for key, least in (("resamples", 1), ("seed", 0)):
        if isinstance(cfg[key], bool) or not isinstance(cfg[key], int) or cfg[key] < least:
            raise UserError(f"{key} must be a whole number of at least {least}, not {cfg[key]!r}")
    for key in ("prevalence", "class_map"):
        if cfg[key] is not None and not OmegaConf.is_dict(cfg[key]):
            raise UserError(f"{key} must map class names, such as {key}={{covid-19: ...}}, not {cfg[key]!r}")
    for name, share in (cfg.prevalence or {}).items():
        if isinstance(share, bool) or not isinstance(share, int | float) or not 0 < share < 1:
            raise UserError(f"prevalence.{name} must lie between 0 and 1, not {share!r}")
    if cfg.name is not None:
        check_name(str(cfg.name))
