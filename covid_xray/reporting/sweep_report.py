"""The report of a sweep: its runs compared by one metric."""

from collections.abc import Sequence
from pathlib import Path

from covid_xray.files import write_atomically
from covid_xray.reporting.html import Picture, Report, Section, output_folder, write_report
from covid_xray.reporting.sweep_plots import (
    curves_figure,
    leak_figure,
    leaked_runs,
    numeric_keys,
    ranking_figure,
    settings_figure,
)
from covid_xray.reporting.sweep_tables import (
    Setting,
    group_runs,
    is_repeated,
    results_csv,
    runs_table,
    settings_table,
    value_text,
    varied_keys,
)
from covid_xray.runs import provenance
from covid_xray.runs.config import read_config, select
from covid_xray.runs.folder import CURVES_FILE, RunFolder, damaged
from covid_xray.sweeps.jobs import SweepRun
from covid_xray.sweeps.learning_curves import read_curves

_METRIC_PICTURES = ("ranking", "leak", "settings")


def write_sweep_report(folder: Path, runs: Sequence[SweepRun], metric: str, output: Path) -> list[Setting]:
    """Write ``report.html``, ``results.csv`` and a PNG file for every figure.

    Args:
        folder: Folder of the sweep.
        runs: Its runs, finished or not; at least one has the metric.
        metric: The metric to compare by.
        output: Folder to write into.

    Returns:
        The runs grouped by setting, best first, for `covid_xray.reporting.sweep_tables.summary_table`.

    Raises:
        UserError: If the output cannot be written, or the configuration of a run is damaged.
    """
    settings = group_runs(runs, metric)
    pictures = _draw(settings, runs, metric)
    finished = sum(run.status == "finished" for run in runs)
    report = Report(
        title=f"Sweep: {'/'.join(part for part in folder.resolve().parts[-2:] if part != 'sweep')}",
        subtitle=f"{len(runs)} runs, {len(settings)} settings, compared by {metric}",
        key_metrics={
            "runs finished": f"{finished} of {len(runs)}",
            f"best {metric}" + " (mean)" * (len(settings[0].runs) > 1): value_text(metric, settings[0].mean(metric)),
            "total hours": f"{sum(run.seconds or 0 for run in runs) / 3600:.2f}",
        },
        warnings=_warnings(runs, settings, metric),
        sections=_sections(settings, metric, pictures),
        provenance=_provenance(folder, runs),
    )
    with output_folder(output):
        for name in (*_METRIC_PICTURES, "curves"):  # an earlier report may have had more figures
            (output / f"{name}.png").unlink(missing_ok=True)
        write_report(output, report, pictures)
        write_atomically(output / "results.csv", results_csv(runs, metric))
    return settings


def _draw(settings: Sequence[Setting], runs: Sequence[SweepRun], metric: str) -> dict[str, Picture]:
    bars = " Black bars: means of repeated runs." if is_repeated(settings) else ""
    pictures = {
        "ranking": Picture(ranking_figure(settings, metric), f"{metric} of every run, best setting first.{bars}")
    }
    if leaked := leaked_runs(runs):
        figure = leak_figure(leaked, varied_keys(runs))
        pictures["leak"] = Picture(figure, "Accuracy of every run on leaked test images and on unseen patients.")
    if keys := numeric_keys(runs):
        pictures["settings"] = Picture(settings_figure(runs, metric, keys), f"{metric} over each numeric setting.")
    tags = list(dict.fromkeys(["val/loss", "val/" + metric.split("/", 1)[1], "val/accuracy"]))[:2]
    curves = {run.folder.name: read_curves(run.folder, tags) for run in runs if _has_curves(run)}
    if any(curve for of_run in curves.values() for curve in of_run.values()):
        phases = _phases(runs)
        lines = "; dotted lines: ends of phases" if len(phases) > 1 else ""
        caption = f"Validation after every epoch, in the colours of the first figure{lines}."
        pictures["curves"] = Picture(curves_figure(settings, curves, tags, phases), caption)
    return pictures


def _has_curves(run: SweepRun) -> bool:
    return RunFolder(run.folder).curves.is_file()


def _phases(runs: Sequence[SweepRun]) -> dict[str, int]:
    """Epochs by phase, in order; empty if the started runs differ in them."""
    found = []
    for config in (RunFolder(run.folder).config for run in runs):
        if config.is_file():
            phases = select(read_config(config), "schedule.phases")
            if not isinstance(phases, dict | None):
                raise damaged(config, "schedule.phases is not a mapping")
            epochs = {str(name): select(phase, "epochs") for name, phase in (phases or {}).items()}
            if not all(isinstance(number, int) for number in epochs.values()):
                raise damaged(config, "the epochs of a phase are not a number")
            found.append(list(epochs.items()))
    return dict(found[0]) if found and all(phases == found[0] for phases in found) else {}


def _warnings(runs: Sequence[SweepRun], settings: Sequence[Setting], metric: str) -> list[str]:
    found = []
    if leaked := sum(run.metrics.get("leaks", 0) > 0 for run in runs):
        found.append(f"Leak: the training data of {leaked} runs leak into the test images; their metrics are too good.")
    if metric.startswith("test/") and len(settings) > 1:
        found.append(
            "The test metric of the best of several settings is partly luck. Select a setting by metric=val/loss or "
            "metric=val/accuracy, and then read its test metric."
        )
    if unfinished := sum(run.status != "finished" for run in runs):
        found.append(f"{unfinished} of {len(runs)} runs are not finished, and missing from the figures.")
    if without := sum(run.status == "finished" and not _has_curves(run) for run in runs):
        found.append(
            f"{without} of {len(runs)} runs have no {CURVES_FILE} (earlier versions wrote none): no curves of them."
        )
    return found


def _sections(settings: Sequence[Setting], metric: str, pictures: dict[str, Picture]) -> list[Section]:
    repeated = is_repeated(settings)
    best = f"Best by {'mean ' * repeated}{metric}: {settings[0].name}."
    sections = [
        Section(
            "Final metrics",
            [best] if len(settings) > 1 else [],
            pictures=[pictures[name] for name in _METRIC_PICTURES if name in pictures],
            tables=[*[settings_table(settings, metric)] * repeated, runs_table(settings, metric)],
        )
    ]
    if "curves" in pictures:
        sections.append(Section("Learning curves", pictures=[pictures["curves"]]))
    return sections


def _provenance(folder: Path, runs: Sequence[SweepRun]) -> dict[str, str]:
    varied = varied_keys(runs)
    common = [f"{key}={value}" for key, value in runs[0].overrides.items() if key not in varied]
    return {
        "sweep": str(folder),
        "settings of all runs": " ".join(common) or "none given",
        "commit of this software": provenance.commit(),
        "when": provenance.now(),
    }
