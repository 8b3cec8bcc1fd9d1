"""Evaluate a run: figures of merit with intervals, calibration, where it looks, whether it cheats; one report."""

from pathlib import Path
from typing import TYPE_CHECKING

from omegaconf import DictConfig, OmegaConf

from covid_xray.commands._run_folder import RunFolder
from covid_xray.commands._trained import check_name, check_run, load_run
from covid_xray.errors import UserError

if TYPE_CHECKING:
    from covid_xray.commands._study import Study

_KINDS = {"from_folder": "folder", "from_manifest": "manifest", "from_phantoms": "phantom"}


def run(cfg: DictConfig) -> None:
    """Evaluate one run, or all runs of a cross-validation together."""
    _check(cfg)
    parts = sweep_parts(Path(cfg.run))
    if parts:
        from covid_xray.commands._pooling import pool

        pool(cfg, parts)
    else:
        evaluate(cfg)


def evaluate(cfg: DictConfig) -> Path:
    """Evaluate one run.

    Returns:
        The folder that the evaluation was written into.
    """
    folder = check_run(cfg.run, cfg.checkpoint, cfg.trust)[0]
    trained = load_run(cfg.run, cfg.checkpoint, cfg.accelerator, cfg.trust)
    from covid_xray.commands._evaluation_folder import write_evaluation, write_tensorboard
    from covid_xray.commands._study import make_study
    from covid_xray.commands._study_card import model_card
    from covid_xray.commands._study_report import draw, numbers, render

    study = make_study(cfg, trained)
    name = name_of(cfg)
    target = folder.path / "evaluation" / name
    pictures = draw(study)
    report = render(study, name, pictures)
    tested = {**study.variants, **{f"shortcut test: {name}": each for name, each in study.conditions.items()}}
    drawn = write_evaluation(target, study.predictions, tested, numbers(study), pictures, report, model_card(study))
    write_tensorboard(folder.path, name, study.estimates, drawn)
    _summarise(study, target)
    return target


def name_of(cfg: DictConfig) -> str:
    """Name of the evaluation's folder."""
    if cfg.name is not None:
        return check_name(str(cfg.name))
    if cfg.get("data") is None:
        return str(cfg.split)
    target = str(cfg.data.get("_target_", "")).rsplit(".", 1)[-1]
    return f"external-{_KINDS.get(target, 'data')}"


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


def _summarise(study: "Study", target: Path) -> None:
    from rich.console import Console

    from covid_xray.commands._study_report import data_words, key_figures

    console = Console(highlight=False, soft_wrap=True)
    console.print(f"{data_words(study)}; {study.run.checkpoint} checkpoint", markup=False)
    for name, value in key_figures(study).items():
        console.print(f"  {name:<30} {value}", markup=False)
    for words in (*study.leaks, *study.estimates.warnings):
        console.print(f"Warning: {words}", markup=False)
    if study.calibration is None:
        console.print(f"Not calibrated: {study.no_calibration}.", markup=False)
    console.print(f"Verdict: {study.verdict.text}", markup=False)
    console.print(f"Report: {target / 'report.html'}\nResearch only: not for diagnosis.", markup=False)
