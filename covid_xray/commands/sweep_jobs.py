"""Sweeps: what happens before the first job, around each job, and after the last, whatever sweeper and launcher.

Jobs never raise: Hydra's sweepers end at the first exception that they see, and so do the jobs still to come. A job's
failure is written into its run folder instead, and told at the end.
"""

import gc
import importlib.util
import json
import multiprocessing
import os
import sys
import time
import traceback
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict, read_write

from covid_xray.commands.sweep_optuna import continue_study, objective_value
from covid_xray.errors import UserError
from covid_xray.files import lock, write_atomically
from covid_xray.runs.folder import is_main_process
from covid_xray.sweeps.jobs import FAILURE, JOB, PLAN, SweepRun, read_sweep, shown_metrics, sweep_csv
from covid_xray.sweeps.names import job_overrides, run_name, setting_text

# Our launchers have the plugins' names, so Hydra also checks them against the plugins' own: that alone is deprecated.
warnings.filterwarnings("ignore", message=r"\n'hydra/launcher/\w+' is validated against ConfigStore schema")


@dataclass(frozen=True)
class _Sweep:
    """The sweep that this process runs.

    Attributes:
        folder: Its folder.
        objective: The figure that it is about.
        planned: Number of jobs; 0 where the sweeper decides as it goes.
        held: Its lock, kept until the process ends.
    """

    folder: Path
    objective: str
    planned: int
    held: IO[str]


_running: list[_Sweep] = []


class SweepCallback(Callback):
    """Hydra calls this before the sweeper; `write_sweep_table` is not such a callback, as Hydra skips it after an exception."""

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Plan the sweep; Hydra turns exceptions of callbacks into warnings, but lets one go on that ends the program.

        Raises:
            SystemExit: With the sentence that says what the user has to change.
        """
        try:
            _running[:] = [_begin(config)]
        except UserError as error:
            raise SystemExit(str(error)) from None


def is_sweep() -> bool:
    """Whether the running job is one of a sweep."""
    return HydraConfig.initialized() and HydraConfig.get().mode == RunMode.MULTIRUN


def refuse_overlay_without_sweep() -> None:
    """Refuse ``sweep=...`` where only one job runs.

    Raises:
        UserError: Then.
    """
    overlay = HydraConfig.get().runtime.choices.get("sweep")
    if overlay is not None and not is_sweep():
        raise UserError(f"sweep={overlay} needs -m, which makes a sweep of it: covid-xray train -m sweep={overlay} ...")


def refuse_several_devices(trainer: DictConfig, slurm: bool) -> None:
    """Refuse a sweep's jobs on several devices where Lightning would start the processes for them.

    It would do so with the sweep's command line, so that each of them ran the whole sweep, and trained with settings of
    its own. SLURM starts all processes of a job itself.

    Raises:
        UserError: Then.
    """
    devices = trainer.get("devices", "auto")
    one = len(devices) == 1 if OmegaConf.is_list(devices) else str(devices) == "1"
    if not (one and trainer.get("num_nodes", 1) == 1) and not slurm:
        raise UserError(
            "a job of a sweep trains on one device here: use trainer.devices=1, with hydra/launcher=joblib for several "
            "jobs at a time, or hydra/launcher=submitit_slurm, whose jobs may have several devices each"
        )


def run_job(run: Callable[[DictConfig], Any], cfg: DictConfig, sentence: Callable[[BaseException], str]) -> Any:
    """Run one job of a sweep; a failure is noted in its folder and goes no further.

    Args:
        run: The command.
        cfg: The job's configuration.
        sentence: Says in one line what went wrong.

    Returns:
        The figure for the sweeper; None where there is none.
    """
    folder = Path(HydraConfig.get().runtime.output_dir)
    main = is_main_process()
    if multiprocessing.get_start_method(allow_none=True) == "loky":
        # joblib's workers would start the loader's workers in joblib's way, which torch does not know.
        multiprocessing.set_start_method(multiprocessing.get_all_start_methods()[0], force=True)
    if main:
        (folder / FAILURE).unlink(missing_ok=True)
        if not (folder / JOB).is_file():
            overrides = job_overrides(HydraConfig.get().overrides.task)
            write_atomically(folder / JOB, json.dumps({"overrides": overrides, "begun": time.time()}) + "\n")
    try:
        return objective_value(run(cfg))
    except Exception as error:
        text = sentence(error) if isinstance(error, UserError) else f"{type(error).__name__}: {sentence(error)}"
        details = "" if isinstance(error, UserError) else traceback.format_exc()
        if main:
            write_atomically(folder / FAILURE, f"{text}\n{details}")
            print(f"{details}covid-xray: {folder.name}: {text}", file=sys.stderr)
        return None
    finally:
        gc.collect()  # Trainer and module hold each other, and with them the device's memory that the next job needs


def write_sweep_table() -> int:
    """Print the table of the sweep that this process ran, and write it into the sweep's folder as ``sweep.csv``.

    Returns:
        How many jobs failed.
    """
    if not _running:
        return 0
    sweep = _running.pop()
    try:
        runs = read_sweep(sweep.folder)
    except UserError:  # a command that leaves no figures to tell, or no job that was begun
        return 0
    runs = runs[: sweep.planned or None]
    table = sweep.folder / "sweep.csv"
    write_atomically(table, sweep_csv(runs, sweep.objective))
    _print(runs, sweep.objective)
    print(f"Table: {table}")
    failed = [run for run in runs if run.status == "failed"]
    for run in failed:
        print(f"covid-xray: {run.folder.name} failed: {run.error}", file=sys.stderr)
    return len(failed)


def _begin(config: DictConfig) -> _Sweep:
    folder = Path(config.hydra.sweep.dir)
    if int(os.environ.get("WORLD_SIZE") or 1) > 1:
        raise UserError("a sweep is not for torchrun, which would run it in every process: leave torchrun or -m out")
    sweeper, launcher = config.hydra.sweeper, config.hydra.launcher
    if "trainer" in config:
        refuse_several_devices(config.trainer, launcher["_target_"].endswith(".SlurmLauncher"))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        held = lock(folder / ".lock")
    except OSError as error:
        raise UserError(f"cannot write into the sweep's folder {folder}: {error.strerror or error}") from None
    if held is None:
        raise UserError(f"another sweep runs in {folder}; wait for its end, or give this one hydra.sweep.dir=...")
    _check_plugins(config)
    given = [f"{key}={value}" for key, value in (sweeper.get("params") or {}).items()]
    lines = [*given, *config.hydra.overrides.task]
    loader = GlobalHydra.instance().config_loader()
    overrides = OverridesParser.create(config_loader=loader).parse_overrides(lines)
    left_out = fix_sweep_dir(config, folder, overrides)
    planned = 0
    if sweeper["_target_"].endswith(".BasicSweeper"):
        planned = _plan(folder, overrides, left_out)
    else:
        (folder / PLAN).unlink(missing_ok=True)
    if sweeper["_target_"].endswith(".OptunaSweeper"):
        continue_study(sweeper)
    return _Sweep(folder, config.get("objective") or "val/loss", planned, held)


def _check_plugins(config: DictConfig) -> None:
    for part, extra in (("sweeper", "sweep"), ("launcher", "launch")):
        package = config.hydra[part]["_target_"].rsplit(".", 2)[0]
        if package.startswith("hydra_plugins.") and importlib.util.find_spec(package) is None:
            raise UserError(f"hydra/{part} needs {package.split('.')[-1]}: pip install 'covid-xray[{extra}]'")


def fix_sweep_dir(config: DictConfig, folder: Path, overrides: list[Override]) -> list[str]:
    """Give all jobs one sweep folder, also if they differ in what it is named by; returns what names leave out."""
    keys = {override.get_key_element(): override for override in overrides}
    if "run_dir" in keys:
        raise UserError("run_dir is the folder of one run; a sweep's is hydra.sweep.dir=..., with a folder per job")
    left_out = list(config.hydra.job.config.override_dirname.exclude_keys)
    if "experiment" in keys and not keys["experiment"].is_sweep_override():
        left_out.append("experiment")  # all jobs have the same, and the sweep's folder is named by it
    quoted = str(folder).replace("\\", "\\\\").replace("'", "\\'")
    with read_write(config.hydra), open_dict(config.hydra):
        config.hydra.overrides.hydra += [
            f"hydra.sweep.dir='{quoted}'",
            f"hydra.job.config.override_dirname.exclude_keys=[{','.join(left_out)}]",
        ]
    return left_out


def _plan(folder: Path, overrides: list[Override], left_out: list[str]) -> int:
    """Write down which jobs are to come, so that those missing after a kill can be told; returns how many."""
    from hydra._internal.core_plugins.basic_sweeper import BasicSweeper

    plan: dict[str, dict[str, str]] = {}
    for lines in BasicSweeper.split_arguments(overrides, None)[0]:
        name = run_name(lines, left_out)
        if name in plan:
            raise UserError(f"two jobs of the sweep differ in nothing that changes a result, and would both be {name}")
        plan[name] = job_overrides(lines)
    write_atomically(folder / PLAN, json.dumps(plan, indent=2) + "\n")
    return len(plan)


def _print(runs: list[SweepRun], objective: str) -> None:
    from rich.console import Console
    from rich.table import Table

    metrics = shown_metrics(objective)
    table = Table(title="Sweep (95 % Wilson intervals)", title_justify="left")
    for column in ("job", "overrides", "status", *metrics, "minutes"):
        table.add_column(column, justify="left" if column in ("overrides", "status") else "right", overflow="fold")
    varied = {key for run in runs for key, value in run.overrides.items() if value != runs[0].overrides.get(key)}
    for number, run in enumerate(runs):
        told = " ".join(setting_text(key, value) for key, value in run.overrides.items() if key in varied)
        intervals = [run.interval(metric) for metric in metrics]
        figures = [i.text() if i.value == i.value else "" for i in intervals]
        minutes = "" if run.seconds is None else f"{run.seconds / 60:.1f}"
        table.add_row(str(number), told, run.status, *figures, minutes)
    Console(highlight=False).print(table)
