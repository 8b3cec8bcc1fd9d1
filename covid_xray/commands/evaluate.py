"""Evaluate a run, or several as one: metrics with intervals, calibration, saliency, shortcut tests; one report."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf

from covid_xray.commands._build import build_records, resolve
from covid_xray.errors import UserError, printable
from covid_xray.imports import quick_imports
from covid_xray.runs.compare import short_names
from covid_xray.runs.config import check_run
from covid_xray.runs.folder import METRICS_FILE, RunFolder, check_name, read_json
from covid_xray.runs.pooling import combine, differing_settings, fold_groups, is_current, member_runs, read_member

if TYPE_CHECKING:
    from covid_xray.runs.evaluate import EvaluationResult


# What the numbers of an evaluation depend on.
_REQUEST = ("subset", "class_map", "prevalence", "tta", "saliency", "resamples", "seed", "recalibrate")


def run(cfg: DictConfig) -> None:
    """Evaluate one run, or several as one: averaged, and pooled where they are folds."""
    _check(cfg)
    name = str(cfg.subset) if cfg.get("data") is None else _data_name(cfg.data)
    if cfg.name is not None:
        name = check_name(str(cfg.name))
    runs = member_runs(cfg.run)
    if len(runs) > 1:
        _combine(cfg, runs, name)
    else:
        _evaluate(cfg, runs[0], name, None if cfg.output is None else Path(str(cfg.output)))


def _check(cfg: DictConfig) -> None:
    if OmegaConf.is_missing(cfg, "run"):
        raise UserError("run must be given: add run=RUN_FOLDER to the command")
    if cfg.subset not in ("train", "val", "test"):
        raise UserError(f"subset must be train, val or test, not {cfg.subset!r}")
    for key in ("tta", "saliency", "trust", "fold_batchnorm"):
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


def _evaluate(cfg: DictConfig, run: Path, name: str, output: Path | None = None) -> None:
    """Evaluate one run, write everything and print a summary."""
    check_run(run, cfg.checkpoint, cfg.trust)
    config = resolve(cfg, *(["data"] if cfg.get("data") is not None else []))
    records = build_records(config) if config.get("data") else None
    with quick_imports():
        from covid_xray.reporting.evaluation_folder import write_evaluation
        from covid_xray.runs.evaluate import evaluate_run
        from covid_xray.runs.load import load_run

    settings: dict[str, Any] = {key: config[key] for key in (*_REQUEST, "threads")}
    loaded = load_run(run, cfg.checkpoint, cfg.accelerator, cfg.trust, fold_batchnorm=cfg.fold_batchnorm)
    result = evaluate_run(loaded, records, **settings)
    _summarise(result, write_evaluation(result, name, output))


def _combine(cfg: DictConfig, runs: Sequence[Path], name: str) -> None:
    """Evaluate every run that is not evaluated yet, then all together."""
    names = short_names(runs)
    configs = {member: check_run(run, cfg.checkpoint, cfg.trust)[1] for member, run in zip(names, runs, strict=True)}
    own = cfg.get("data") is None
    if own:
        fold_groups(configs)  # before the runs are evaluated, which takes long
    differing = differing_settings(configs)
    more = " ..." if len(differing) > 6 else ""
    print(f"{len(runs)} runs, which differ in {printable(', '.join(differing[:6])) or 'no setting'}{more}")
    config = resolve(cfg) if own else resolve(cfg, "data")
    request = {key: config[key] for key in _REQUEST}
    if cfg.fold_batchnorm:
        request["fold_batchnorm"] = True
    members, found = {}, {}
    for member, run in zip(names, runs, strict=True):
        if not (own and is_current(run, name, request, cfg.checkpoint, cfg.trust)):
            print(f"Evaluating {printable(str(run))}")
            _evaluate(cfg, run, name)
        members[member] = read_member(run, name, cfg.checkpoint, cfg.trust)
        found[member] = read_json(RunFolder(run).evaluation(name) / METRICS_FILE)
    from covid_xray.reporting.evaluation_folder import write_pooled_evaluation

    combined = combine(members, cfg.resamples, cfg.seed)
    target = write_pooled_evaluation(_output(cfg), name, combined, found)
    row, each = combined.table["accuracy"], "fold" if combined.is_pooled else "run"
    images, accuracy = combined.predictions, combined.estimates.intervals["accuracy"]
    print(f"{combined.text[0].upper()}{combined.text[1:]}, {len(images.labels)} images of {images.n_patients} patients")
    print(f"Accuracy: {accuracy.text(percent=True)}")
    print(f"Accuracy by {each}: mean {100 * row['mean']:.1f} %, SD {100 * row['sd']:.1f} %")
    print(f"Report: {target / 'report.html'}\nResearch only: not for diagnosis.")


def _output(cfg: DictConfig) -> Path:
    """The folder that gets the evaluation of several runs."""
    if cfg.output is not None:
        return Path(str(cfg.output))
    return Path("outputs/ensemble") if OmegaConf.is_list(cfg.run) else RunFolder(Path(str(cfg.run))).results


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
        console.print(f"Not calibrated: {printable(result.no_calibration)}.")
    if result.source_only is not None:
        console.print(f"Source: {result.source_only.text}")
    if result.groups is not None:
        console.print(result.groups.text())
    console.print(f"Verdict: {result.verdict.text}")
    console.print(f"Report: {target / 'report.html'}\nResearch only: not for diagnosis.")
