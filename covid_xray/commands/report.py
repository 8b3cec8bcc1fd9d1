"""Report on a sweep: runs side by side as one HTML file, with results.csv and PNG figures beside it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from covid_xray.errors import UserError
from covid_xray.runs.config import read_config
from covid_xray.runs.folder import RunFolder
from covid_xray.sweeps.jobs import SweepRun, read_sweep


def run(cfg: DictConfig) -> None:
    """Compare the runs of a sweep, finished or not."""
    if OmegaConf.is_missing(cfg, "sweep"):
        raise UserError("sweep=... must name a sweep's folder, such as outputs/tiny/sweep")
    folder = Path(str(cfg.sweep))
    if not folder.is_dir():
        raise UserError(f"sweep={folder} is no folder")
    runs = read_sweep(folder)
    metric, output = _metric(cfg.metric, runs), Path(cfg.output) if cfg.output else folder / "report"
    from rich.console import Console

    from covid_xray.reporting.sweep_report import write_sweep_report
    from covid_xray.reporting.sweep_tables import summary_table
    from covid_xray.reporting.tables import console_table

    settings = write_sweep_report(folder, runs, metric, output)
    Console(highlight=False).print(console_table(summary_table(settings, metric)))
    print(f"Report: {output / 'report.html'}\nTable:  {output / 'results.csv'}\nResearch only: not for diagnosis.")


def _metric(wanted: Any, runs: Sequence[SweepRun]) -> str:
    names = sorted({name for run in runs for name in run.metrics if "/" in name})
    if not names:
        raise UserError("no run of the sweep is finished, so there is nothing to compare yet")
    if wanted is None:
        config = RunFolder(next(run.folder for run in runs if run.metrics)).config
        objective = read_config(config).get("objective") if config.is_file() else None
        wanted = next((name for name in ("test/accuracy", objective) if name in names), names[0])
    if wanted not in names:
        raise UserError(f"metric={wanted} is no metric of the sweep's runs; they have {', '.join(names)}")
    return str(wanted)
