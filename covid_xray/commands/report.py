"""Report on a sweep: runs side by side as one HTML file, with results.csv and PNG figures beside it."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf

from covid_xray.errors import UserError
from covid_xray.files import write_atomically
from covid_xray.runs.folder import RunFolder
from covid_xray.sweeps.jobs import SweepRun, read_sweep

if TYPE_CHECKING:
    from covid_xray.reporting.html import Picture, Section
    from covid_xray.reporting.sweep_tables import Setting

_FIGURES = ("ranking.png", "leak.png", "settings.png", "curves.png")


def run(cfg: DictConfig) -> None:
    """Compare the runs of a sweep, finished or not."""
    folder, runs = _read(cfg)
    metric = _metric(cfg.metric, runs)
    from matplotlib.figure import Figure

    from covid_xray.plots.classification import figure_png
    from covid_xray.reporting.html import Report, render_report
    from covid_xray.reporting.sweep_tables import group_runs, number, results_csv

    settings = group_runs(runs, metric, lowest_first=metric.endswith("/loss"))
    output = Path(cfg.output) if cfg.output else folder / "report"
    pictures = _pictures(settings, runs, metric)
    finished = [run for run in runs if run.status == "finished"]
    report = Report(
        title=f"Sweep: {_name(folder)}",
        subtitle=f"{len(runs)} runs, {len(settings)} settings, compared by {metric}",
        key_figures={
            "runs finished": f"{len(finished)} of {len(runs)}",
            f"best {metric}" + " (mean)" * (len(settings[0].runs) > 1): number(metric, settings[0].mean(metric)),
            "hours in all": f"{sum(run.seconds or 0 for run in runs) / 3600:.2f}",
        },
        warnings=_warnings(runs, settings, metric),
        sections=_sections(settings, metric, pictures),
        provenance=_provenance(cfg, runs),
    )
    try:
        output.mkdir(parents=True, exist_ok=True)
        for name in _FIGURES:  # one that this sweep does not have may lie there from before
            (output / name).unlink(missing_ok=True)
        for name, picture in pictures.items():
            assert isinstance(picture.figure, Figure)
            write_atomically(output / name, figure_png(picture.figure))
        write_atomically(output / "results.csv", results_csv(runs, metric))
        write_atomically(output / "report.html", render_report(report))
    except OSError as error:
        raise UserError(f"output={output} cannot be written: {error.strerror or error}") from None
    _show(settings, metric)
    print(f"Report: {output / 'report.html'}\nTable:  {output / 'results.csv'}\nResearch only: not for diagnosis.")


def _read(cfg: DictConfig) -> tuple[Path, list[SweepRun]]:
    if OmegaConf.is_missing(cfg, "sweep"):
        raise UserError("sweep=... must name a sweep's folder, such as outputs/tiny/sweep")
    folder = Path(str(cfg.sweep))
    if not folder.is_dir():
        raise UserError(f"sweep={folder} is no folder")
    return folder, read_sweep(folder)


def _metric(wanted: Any, runs: Sequence[SweepRun]) -> str:
    names = sorted({name for run in runs for name in run.metrics if "/" in name})
    if not names:
        raise UserError("no run of the sweep is finished, so there is nothing to compare yet")
    if wanted is None:
        config = RunFolder(next(run.folder for run in runs if run.metrics)).config
        objective = OmegaConf.select(OmegaConf.load(config), "objective") if config.is_file() else None
        wanted = next((name for name in ("test/accuracy", objective) if name in names), names[0])
    if wanted not in names:
        raise UserError(f"metric={wanted} is no figure of the sweep's runs; they have {', '.join(names)}")
    return str(wanted)


def _name(folder: Path) -> str:
    parts = [part for part in folder.resolve().parts[-2:] if part != "sweep"]
    return "/".join(parts)


def _warnings(runs: Sequence[SweepRun], settings: Sequence["Setting"], metric: str) -> list[str]:
    found = []
    if leaked := sum(run.metrics.get("leaks", 0) > 0 for run in runs):
        found.append(f"Leak: {leaked} runs were trained on data that leaks into the test images; too good.")
    if metric.startswith("test/") and len(settings) > 1:
        found.append(
            "The best of several settings owes part of its test figure to luck. Choose by metric=val/loss or "
            "metric=val/accuracy, and read the test figure of what was chosen."
        )
    if unfinished := [run for run in runs if run.status != "finished"]:
        found.append(f"{len(unfinished)} of {len(runs)} runs are not finished, and missing from the figures.")
    return found


def _pictures(settings: Sequence["Setting"], runs: Sequence[SweepRun], metric: str) -> dict[str, "Picture"]:
    from covid_xray.reporting.html import Picture
    from covid_xray.reporting.sweep_plots import (
        curves_figure,
        leak_figure,
        leaked_runs,
        numeric_keys,
        ranking_figure,
        settings_figure,
    )
    from covid_xray.reporting.sweep_tables import varied_keys
    from covid_xray.sweeps.learning_curves import read_curves

    bars = " Bars across: means of repeated runs." if any(len(setting.runs) > 1 for setting in settings) else ""
    figures = {"ranking.png": (ranking_figure(settings, metric), f"{metric} of every run, best setting first.{bars}")}
    if leaked := leaked_runs(runs):
        figure = leak_figure(leaked, varied_keys(runs))
        figures["leak.png"] = (figure, "What the leak adds to the accuracy of every run.")
    if keys := numeric_keys(runs):
        figures["settings.png"] = (settings_figure(runs, metric, keys), f"{metric} over each setting that is a number.")
    tags = list(dict.fromkeys(["val/loss", "val/" + metric.split("/", 1)[1], "val/accuracy"]))[:2]
    curves = {run.folder.name: read_curves(run.folder, tags) for run in runs}
    if any(curve for of_run in curves.values() for curve in of_run.values()):
        phases = _phases(runs)
        lines = "; dotted lines: ends of phases" if len(phases) > 1 else ""
        figure = curves_figure(settings, curves, tags, phases)
        figures["curves.png"] = (figure, f"Validation after every epoch, in the ranking's colours{lines}.")
    return {name: Picture(figure, caption) for name, (figure, caption) in figures.items()}


def _phases(runs: Sequence[SweepRun]) -> dict[str, int]:
    """Epochs by phase, if the same in all runs that were begun; else nothing."""
    found = []
    for config in (RunFolder(run.folder).config for run in runs):
        if config.is_file():
            phases: Any = OmegaConf.select(OmegaConf.load(config), "schedule.phases") or {}
            found.append({str(name): int(phase.epochs) for name, phase in phases.items()})
    return found[0] if found and all(list(f.items()) == list(found[0].items()) for f in found) else {}


def _sections(settings: Sequence["Setting"], metric: str, pictures: dict[str, "Picture"]) -> list["Section"]:
    from covid_xray.reporting.html import Section
    from covid_xray.reporting.sweep_tables import runs_table, settings_table

    repeated = any(len(setting.runs) > 1 for setting in settings)
    tables = [settings_table(settings, metric)] if repeated else []
    first = [pictures[name] for name in ("ranking.png", "leak.png", "settings.png") if name in pictures]
    best = f"Best by {'mean ' * repeated}{metric}: {settings[0].name}." if len(settings) > 1 else ""
    sections = [
        Section("Final figures", [best] * bool(best), pictures=first, tables=[*tables, runs_table(settings, metric)])
    ]
    if "curves.png" in pictures:
        sections.append(Section("Learning curves", pictures=[pictures["curves.png"]]))
    return sections


def _provenance(cfg: DictConfig, runs: Sequence[SweepRun]) -> dict[str, str]:
    from covid_xray.reporting.sweep_tables import varied_keys
    from covid_xray.runs import provenance

    varied = varied_keys(runs)
    common = [f"{key}={value}" for key, value in runs[0].overrides.items() if key not in varied]
    return {
        "sweep": str(cfg.sweep),
        "settings of all runs": " ".join(common) or "none given",
        "commit of this software": provenance.commit(),
        "when": provenance.now(),
    }


def _show(settings: Sequence["Setting"], metric: str) -> None:
    from rich.console import Console
    from rich.table import Table

    from covid_xray.reporting.sweep_tables import runs_table, settings_table

    repeated = any(len(setting.runs) > 1 for setting in settings)
    content = settings_table(settings, metric) if repeated else runs_table(settings, metric)
    table = Table(title=content.caption, title_justify="left")
    for column in content.header:
        table.add_column(column, overflow="fold")
    for row in content.rows:
        table.add_row(*row)
    Console(highlight=False, markup=False).print(table)
