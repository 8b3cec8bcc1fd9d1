"""Run a sweep with any of Hydra's sweepers and launchers: before the first job, around each job, after the last.

A job never raises, because Hydra's sweepers stop at the first exception. Its failure is written into its run folder
instead, and printed at the end.
"""

import contextlib
import gc
import importlib.util
import multiprocessing
import os
import sys
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

from covid_xray.commands._build import build_records, resolve
from covid_xray.errors import UserError, printable, quote
from covid_xray.files import resource_errors
from covid_xray.runs.folder import is_main_process
from covid_xray.sweeps.devices import claim_device, refuse_several_devices
from covid_xray.sweeps.jobs import PLAN, fail_job, lock_sweep, start_job, write_plan
from covid_xray.sweeps.names import better, run_name
from covid_xray.sweeps.study import continue_study, objective_value
from covid_xray.sweeps.table import report_jobs

# The configuration calls both by name. The process of a launcher has them too: it imports this module for the callback.
OmegaConf.register_new_resolver("run_name", run_name, replace=True)
OmegaConf.register_new_resolver("better", better, replace=True)
# Hydra also checks our launchers against the plugins' schemas, because the names are the same; only that is deprecated.
warnings.filterwarnings("ignore", message=r"\n'hydra/launcher/\w+' is validated against ConfigStore schema")


@dataclass(frozen=True)
class _Sweep:
    """The sweep that this process runs.

    Attributes:
        folder: Its folder.
        objective: The metric that it optimizes or compares.
        planned: Number of jobs; 0 if the sweeper chooses them while it runs.
        held: Its lock, held until the process ends.
    """

    folder: Path
    objective: str
    planned: int
    held: IO[str]


_running: list[_Sweep] = []


class SweepCallback(Callback):
    """Prepares a sweep before Hydra's sweeper starts.

    `write_sweep_table` is no such callback, because Hydra calls none after an exception.
    """

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Check and plan the sweep.

        Raises:
            SystemExit: With the message for the user; Hydra turns other exceptions of callbacks into warnings.
        """
        try:
            _running[:] = [_begin(config)]
        except UserError as error:
            raise SystemExit(str(error)) from None


def is_sweep() -> bool:
    """Whether the running job belongs to a sweep."""
    return HydraConfig.initialized() and HydraConfig.get().mode == RunMode.MULTIRUN


def refuse_overlay_without_sweep() -> None:
    """Refuse ``sweep=...`` without ``-m``.

    Raises:
        UserError: If a sweep's overlay is chosen, but only one job runs.
    """
    overlay = HydraConfig.get().runtime.choices.get("sweep")
    if overlay is not None and not is_sweep():
        raise UserError(f"sweep={overlay} needs -m, which runs all its jobs: covid-xray train -m sweep={overlay} ...")


def on_own_device(cfg: DictConfig, job: int) -> DictConfig:
    """The configuration with a GPU that no other job uses, if the job asks for one GPU and the machine has several."""
    if cfg.trainer.get("accelerator") not in ("auto", "gpu", "cuda") or cfg.trainer.get("devices") != 1:
        return cfg
    index = claim_device(job)
    placed = cfg if index is None else OmegaConf.merge(cfg, {"trainer": {"devices": [index]}})
    assert isinstance(placed, DictConfig)
    return placed


def run_job(run: Callable[[DictConfig], Any], cfg: DictConfig, sentence: Callable[[BaseException], str]) -> Any:
    """Run one job of a sweep; a failure is written into its run folder and not raised.

    Args:
        run: The command.
        cfg: The job's configuration.
        sentence: Describes an exception in one line.

    Returns:
        The value for the sweeper; None if there is none.
    """
    folder = Path(HydraConfig.get().runtime.output_dir)
    main = is_main_process()
    if multiprocessing.get_start_method(allow_none=True) == "loky":
        # joblib's workers would start the loader's workers with joblib's method, which torch does not support.
        multiprocessing.set_start_method(multiprocessing.get_all_start_methods()[0], force=True)
    if main:
        start_job(folder, HydraConfig.get().overrides.task)
    try:
        if "trainer" in cfg:
            refuse_several_devices(cfg.trainer, slurm=os.environ.get("SUBMITIT_EXECUTOR") == "slurm")
        with resource_errors(folder):
            return objective_value(run(cfg))
    except Exception as error:
        text = sentence(error) if isinstance(error, UserError) else f"{type(error).__name__}: {sentence(error)}"
        details = "" if isinstance(error, UserError) else traceback.format_exc()
        if main:
            with contextlib.suppress(UserError):  # such as a full disk, of which the job itself reports
                fail_job(folder, text, details)
            print(f"{details}covid-xray: {folder.name}: {printable(text)}", file=sys.stderr)
        return None
    finally:
        gc.collect()  # Trainer and module refer to each other and keep device memory that the next job needs


def write_sweep_table() -> int:
    """Print and write the table of the sweep that this process ran, if any; returns the number of failed jobs."""
    if not _running:
        return 0
    sweep = _running.pop()
    return report_jobs(sweep.folder, sweep.objective, sweep.planned)


def _begin(config: DictConfig) -> _Sweep:
    if int(os.environ.get("WORLD_SIZE") or 1) > 1:
        raise UserError("torchrun would run the whole sweep in every process: start the sweep without torchrun")
    sweeper, launcher = config.hydra.sweeper, config.hydra.launcher
    if "trainer" in config:
        refuse_several_devices(config.trainer, launcher["_target_"].endswith(".SlurmLauncher"))
    folder = Path(config.hydra.sweep.dir)
    held = lock_sweep(folder)
    _check_plugins(config)
    _name_sources(config)
    params = [f"{key}={value}" for key, value in (sweeper.get("params") or {}).items()]
    loader = GlobalHydra.instance().config_loader()
    lines = [*params, *config.hydra.overrides.task]
    overrides = OverridesParser.create(config_loader=loader).parse_overrides(lines)
    left_out = _fix_sweep_dir(config, folder, overrides)
    planned = 0
    if sweeper["_target_"].endswith(".BasicSweeper"):
        from hydra._internal.core_plugins.basic_sweeper import BasicSweeper

        planned = write_plan(folder, BasicSweeper.split_arguments(overrides, None)[0], left_out)
    else:
        (folder / PLAN).unlink(missing_ok=True)
    if sweeper["_target_"].endswith(".OptunaSweeper") and sweeper.storage:
        left, before = continue_study(sweeper.storage, sweeper.study_name, sweeper.direction, sweeper.n_trials)
        with read_write(sweeper), open_dict(sweeper):
            sweeper.n_trials = left
            if OmegaConf.select(sweeper, "sampler.seed") is not None:
                sweeper.sampler.seed += before  # the same seed would repeat the trials that the study already holds
    return _Sweep(folder, config.get("objective") or "val/loss", planned, held)


def _name_sources(config: DictConfig) -> None:
    """Replace ``split.test_source: each`` by the sources of the data that can be test sets.

    Raises:
        UserError: If none can.
    """
    params = config.hydra.sweeper.get("params") or {}
    if params.get("split.test_source") != "each":
        return
    from covid_xray.data.audit.sources import confounding_text, held_out_problem

    records = build_records(resolve(OmegaConf.masked_copy(config, "data")))
    labels, sources = records["label"].tolist(), records["source"].tolist()
    problems = {name: held_out_problem(labels, sources, name) for name in sorted(filter(None, set(sources)))}
    usable = [name for name, problem in problems.items() if not problem]
    texts = [f"{name} is not tested on: {problem}" for name, problem in problems.items() if problem]
    if not usable:
        reasons = "; ".join(texts) or "the data names no sources: add a column source to the manifest"
        text = f"sweep=sources: {reasons}. {confounding_text(labels, sources)}".strip()
        raise UserError(text.rstrip("."))
    for text in texts:
        print(f"Warning: {text}.")
    with read_write(config.hydra), open_dict(config.hydra):
        params["split.test_source"] = ",".join(quote(name) for name in usable)


def _check_plugins(config: DictConfig) -> None:
    for part, extra in (("sweeper", "sweep"), ("launcher", "launch")):
        package = config.hydra[part]["_target_"].rsplit(".", 2)[0]
        if package.startswith("hydra_plugins.") and importlib.util.find_spec(package) is None:
            raise UserError(f"hydra/{part} needs {package.split('.')[-1]}: pip install 'covid-xray[{extra}]'")


def _fix_sweep_dir(config: DictConfig, folder: Path, overrides: list[Override]) -> list[str]:
    """Give all jobs the same sweep folder, also if they differ in a setting of its name.

    Returns:
        Settings that the names of run folders leave out.
    """
    keys = {override.get_key_element(): override for override in overrides}
    if "run_dir" in keys:
        raise UserError(
            "run_dir is the folder of one run: use hydra.sweep.dir=... for a sweep, which holds a folder per job"
        )
    left_out = list(config.hydra.job.config.override_dirname.exclude_keys)
    if "experiment" in keys and not keys["experiment"].is_sweep_override():
        left_out.append("experiment")  # the same in all jobs, and part of the sweep folder's name
    quoted = str(folder).replace("\\", "\\\\").replace("'", "\\'")
    with read_write(config.hydra), open_dict(config.hydra):
        config.hydra.overrides.hydra += [
            f"hydra.sweep.dir='{quoted}'",
            f"hydra.job.config.override_dirname.exclude_keys=[{','.join(left_out)}]",
        ]
    return left_out
