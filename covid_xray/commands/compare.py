"""Compare evaluated runs image by image on the same test images: paired differences, McNemar, a table, a figure."""

from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from covid_xray.errors import UserError
from covid_xray.runs.folder import check_name


def run(cfg: DictConfig) -> None:
    """Compare all runs with the first."""
    if OmegaConf.is_missing(cfg, "runs") or not OmegaConf.is_list(cfg.runs):
        raise UserError("runs must list at least two run folders: runs=[A,B]")
    for key, least in (("resamples", 1), ("seed", 0)):
        if isinstance(cfg[key], bool) or not isinstance(cfg[key], int) or cfg[key] < least:
            raise UserError(f"{key} must be a whole number of at least {least}, not {cfg[key]!r}")
    runs, name = [Path(str(path)) for path in cfg.runs], check_name(str(cfg.name))
    from rich.console import Console

    from covid_xray.reporting.comparison_report import write_comparison
    from covid_xray.reporting.tables import comparison_table, console_table
    from covid_xray.runs.compare import compare_runs

    comparisons = compare_runs(runs, name, cfg.resamples, cfg.seed)
    write_comparison(Path(cfg.output), comparisons, runs, name, cfg.resamples, cfg.seed)
    console = Console(highlight=False)
    for comparison in comparisons:
        console.print(console_table(comparison_table(comparison)))
    print(f"Report: {Path(cfg.output) / 'report.html'}\nResearch only: not for diagnosis.")
