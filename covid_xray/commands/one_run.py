"""The evaluation of one run, from its checkpoint to its folder."""

from pathlib import Path
from typing import TYPE_CHECKING

from omegaconf import DictConfig

from covid_xray.runs.load import check_name, check_run, load_run

if TYPE_CHECKING:
    from covid_xray.runs.evaluate import EvaluationResult

_KINDS = {"from_folder": "folder", "from_manifest": "manifest", "from_phantoms": "phantom"}


def evaluate(cfg: DictConfig) -> Path:
    """Evaluate one run.

    Returns:
        The folder that the evaluation was written into.
    """
    folder = check_run(cfg.run, cfg.checkpoint, cfg.trust)[0]
    trained = load_run(cfg.run, cfg.checkpoint, cfg.accelerator, cfg.trust)
    from covid_xray.reporting.evaluation_folder import write_evaluation, write_tensorboard
    from covid_xray.reporting.evaluation_report import draw, numbers, render
    from covid_xray.reporting.model_card_answers import model_card
    from covid_xray.runs.evaluate import evaluate_run

    study = evaluate_run(cfg, trained)
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


def _summarise(study: "EvaluationResult", target: Path) -> None:
    from rich.console import Console

    from covid_xray.reporting.evaluation_report import data_words, key_figures

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
