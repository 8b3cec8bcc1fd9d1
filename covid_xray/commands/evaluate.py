"""Evaluate a run: metrics with intervals, calibration, saliency maps, shortcut tests; one report."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf

from covid_xray.commands._build import build_records, resolve
from covid_xray.errors import UserError
from covid_xray.runs.config import check_run
from covid_xray.runs.folder import METRICS_FILE, PREDICTIONS_FILE, RunFolder, check_name, read_json
from covid_xray.runs.pooling import check_folds, fold_runs, is_current

if TYPE_CHECKING:
    from covid_xray.runs.evaluate import EvaluationResult


# What the numbers of an evaluation depend on.
_REQUEST = ("subset", "class_map", "prevalence", "tta", "saliency", "resamples", "seed", "recalibrate")


def run(cfg: DictConfig) -> None:
    """Evaluate one run, or all runs of a cross-validation together."""
    _check(cfg)
    name = str(cfg.subset) if cfg.get("data") is None else _data_name(cfg.data)
    if cfg.name is not None:
        name = check_name(str(cfg.name))
    runs = fold_runs(Path(cfg.run))
    if runs:
        _pool(cfg, runs, name)
    else:
        _evaluate(cfg, Path(cfg.run), name)


def _check(cfg: DictConfig) -> None:
    if OmegaConf.is_missing(cfg, "run"):
        raise UserError("run must be given: add run=RUN_FOLDER to the command")
    if cfg.subset not in ("train", "val", "test"):
        raise UserError(f"subset must be train, val or test, not {cfg.subset!r}")
    for key in ("tta", "saliency", "trust"):
        if not isinstance(cfg[key], bool):
            raise UserError(f"{key} must be true or false, not {cfg[key]!r}")
    for key, least in (("resamples", 1), ("seed", 0)):
        if isinstance(cfg[key], bool) or not isinstance(cfg[key], int) or cfg[key] < least:
            raise UserError(f"{key} must be a whole number of at least {least}, not {cfg[key]!r}")
    if cfg.recalibrate is not None and (isinstance(cfg.recalibrate, bool) or not isinstance(cfg.recalibrate, int)):
        raise UserError(f"recalibrate must be a whole number of images, or null, not {cfg.recalibrate!r}")
    if cfg.recalibrate is not None and cfg.get("data") is None:
        raise UserError("recalibrate needs another data set: add data=...")
    for key in ("prevalence", "class_map"):
        if cfg[key] is not None and not OmegaConf.is_dict(cfg[key]):
            raise UserError(f"{key} must map class names, such as {key}={{covid-19: ...}}, not {cfg[key]!r}")
    for name, share in (cfg.prevalence or {}).items():
        if isinstance(share, bool) or not isinstance(share, int | float) or not 0 < share < 1:
            raise UserError(f"prevalence.{name} must be above 0 and below 1, not {share!r}")


def _data_name(data: DictConfig) -> str:
    """Name of an evaluation on another data set, by its reader: ``external-folder``."""
    reader = str(data.get("_target_", "")).rsplit(".", 1)[-1]
    return f"external-{reader.removeprefix('read_').removeprefix('draw_').removesuffix('s') or 'data'}"


def _evaluate(cfg: DictConfig, run: Path, name: str) -> None:
    """Evaluate one run, write everything and print a summary."""
    check_run(run, cfg.checkpoint, cfg.trust)
    config = resolve(cfg, *(["data"] if cfg.get("data") is not None else []))
    records = build_records(config) if config.get("data") else None
    from covid_xray.reporting.evaluation_folder import write_evaluation
    from covid_xray.runs.evaluate import evaluate_run
    from covid_xray.runs.load import load_run

    settings: dict[str, Any] = {key: config[key] for key in (*_REQUEST, "threads")}
    result = evaluate_run(load_run(run, cfg.checkpoint, cfg.accelerator, cfg.trust), records, **settings)
    _summarise(result, write_evaluation(result, name))


def _pool(cfg: DictConfig, runs: Sequence[Path], name: str) -> None:
    """Evaluate every fold that is not evaluated yet, then all together."""
    if cfg.get("data") is not None:
        raise UserError("data=... tests one run on another data set; give run= the folder of a single run")
    check_folds(Path(cfg.run), runs, cfg.checkpoint, cfg.trust)
    from covid_xray.metrics.estimates import estimate, fold_table
    from covid_xray.metrics.predictions import pool_predictions, read_predictions
    from covid_xray.reporting.evaluation_folder import write_pooled_evaluation

    config = resolve(cfg)
    request = {key: config[key] for key in _REQUEST}
    parts, found = {}, {}
    for run in runs:
        folder = RunFolder(run).evaluation(name)
        if not is_current(run, name, request, cfg.checkpoint, cfg.trust):
            print(f"Evaluating {run}")
            _evaluate(cfg, run, name)
        parts[run.name] = read_predictions(folder / PREDICTIONS_FILE)
        found[run.name] = read_json(folder / METRICS_FILE)
    pooled, folds = pool_predictions(list(parts.values())), fold_table(parts)
    estimates = estimate(pooled, cfg.resamples, cfg.seed)
    target = write_pooled_evaluation(Path(cfg.run), name, pooled, estimates, folds, found)
    row = folds["accuracy"]
    print(f"{len(runs)} folds, {len(pooled.labels)} images of {pooled.n_patients} patients")
    print(f"Accuracy: pooled {estimates.intervals['accuracy'].text(percent=True)}")
    print(f"Accuracy by fold: mean {100 * row['mean']:.1f} %, SD {100 * row['sd']:.1f} %")
    print(f"Report: {target / 'report.html'}\nResearch only: not for diagnosis.")


def _summarise(result: "EvaluationResult", target: Path) -> None:
    from rich.console import Console

    from covid_xray.reporting.evaluation_report import describe_data, key_metrics

    console = Console(highlight=False, soft_wrap=True, markup=False)
    console.print(f"{describe_data(result)}; {result.run.checkpoint} checkpoint")
    for name, value in key_metrics(result).items():
        console.print(f"  {name:<30} {value}")
    for warning in (*result.leaks, *result.estimates.warnings):
        console.print(f"Warning: {warning}")
    if result.calibration is None:
        console.print(f"Not calibrated: {result.no_calibration}.")
    if result.source_only is not None:
        console.print(f"Source: {result.source_only.text}")
    if result.groups is not None:
        console.print(result.groups.text())
    console.print(f"Verdict: {result.verdict.text}")
    console.print(f"Report: {target / 'report.html'}\nResearch only: not for diagnosis.")
