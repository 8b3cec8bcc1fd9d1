"""Rank encoders by logistic regression on their features, cross-validated by patient."""

from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from covid_xray.errors import UserError, printable
from covid_xray.runs.compare import short_names
from covid_xray.runs.folder import check_name


def run(cfg: DictConfig) -> None:
    """Probe every file of features on the same folds, and write a table, a plot and the predictions."""
    files = _check(cfg)
    from rich.console import Console
    from rich.markup import escape
    from rich.progress import Progress

    from covid_xray.reporting.probe_report import probe_table, write_probe
    from covid_xray.reporting.tables import console_table
    from covid_xray.runs.embedding import read_features
    from covid_xray.runs.probe import probe

    names = [name.replace("/", "-") for name in short_names([file.with_suffix("") for file in files])]
    features = {check_name(name): read_features(file) for name, file in zip(names, files, strict=True)}
    console = Console(stderr=True)
    with Progress(console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task("Folds", total=cfg.folds * len(files))
        results = probe(
            features,
            cfg.folds,
            metric=str(cfg.metric),
            seed=cfg.seed,
            resamples=cfg.resamples,
            progress=lambda name: bar.update(task, advance=1, description=escape(printable(name))),
        )
    settings = {"files": ", ".join(map(str, files)), "folds": cfg.folds, "seed": cfg.seed, "resamples": cfg.resamples}
    write_probe(Path(str(cfg.output)), results, str(cfg.metric), settings)
    Console(highlight=False).print(console_table(probe_table(results, str(cfg.metric))))
    print(f"Report: {Path(str(cfg.output)) / 'report.html'}\nResearch only: not for diagnosis.")


def _check(cfg: DictConfig) -> list[Path]:
    if OmegaConf.is_missing(cfg, "features"):
        raise UserError("features must be given: features=FILE.npz, or several: features=[A.npz,B.npz]")
    listed = list(cfg.features) if OmegaConf.is_list(cfg.features) else [cfg.features]
    if not listed:
        raise UserError("features=[] names no file; list files of covid-xray embed")
    for key, least in (("folds", 2), ("resamples", 1), ("seed", 0)):
        if isinstance(cfg[key], bool) or not isinstance(cfg[key], int) or cfg[key] < least:
            raise UserError(f"{key} must be a whole number of at least {least}, not {cfg[key]!r}")
    return [Path(str(file)) for file in listed]
