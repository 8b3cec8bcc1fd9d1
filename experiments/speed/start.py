"""Processor time from the start of a command to its answer, here and in another checkout in turn; writes start.csv.

    python experiments/speed/start.py ANOTHER_CHECKOUT

The time is that of the process and its children, so other programs of the machine have little effect on it.
"""

import argparse
import csv
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback as HydraCallback
from lightning import Callback, LightningModule, Trainer

FOLDER = Path(__file__).parent
TRAIN = ("train", "experiment=tiny")
ONE_PHASE = [f"~schedule.phases.{name}" for name in ("unfrozen_small", "frozen_large", "unfrozen_large")]
STOP = "+callbacks.stop._target_=start.StopAfterFirstStep"
CLOCK = ("+callbacks.clock._target_=start.FirstStepClock", "+hydra.callbacks.clock._target_=start.JobClock")
COMMANDS = {
    "--help": ("--help",),
    "error in an override": ("train", "schedule=artcle"),
    "finished run found": (*TRAIN, "run_dir=finished"),
    "train, to the first step": (*TRAIN, "run_dir=new", "resume=never", STOP),
    "predict, one image": ("predict", "run=finished", "input=one.png", "output=one.csv", "overwrite=true"),
}
SWEEP = ("train", "-m", "experiment=tiny", "seed=0,1,2", "hydra.sweep.dir=sweep", "resume=never", *ONE_PHASE, *CLOCK)


class StopAfterFirstStep(Callback):
    """Ends the process."""

    def on_train_batch_end(self, *arguments: Any, **names: Any) -> None:
        """End it."""
        os._exit(0)


def note(what: str) -> None:
    """Append a processor time to the file that the environment names."""
    with Path(os.environ["START_CLOCK"]).open("a", encoding="utf-8") as file:
        file.write(json.dumps([what, time.process_time()]) + "\n")


class FirstStepClock(Callback):
    """Notes when the first step of a run is done."""

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *arguments: Any) -> None:
        """Note the time of the first step."""
        if trainer.global_step == 1:
            note("first step")


class JobClock(HydraCallback):
    """Notes when a job of a sweep ends; the next one then starts."""

    def on_job_end(self, *arguments: Any, **names: Any) -> None:
        """Note the time."""
        note("end")


def run(checkout: Path, folder: Path, words: tuple[str, ...]) -> float:
    """Processor time of a command, in seconds."""
    path = os.pathsep.join([str(checkout), str(FOLDER)])
    environment = {**os.environ, "PYTHONPATH": path, "START_CLOCK": str(folder / "clock.jsonl")}
    command = [sys.executable, "-m", "covid_xray", *words]
    with (folder / "log.txt").open("w", encoding="utf-8") as log:
        process = subprocess.Popen(command, cwd=folder, env=environment, stdout=log, stderr=log)
        _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    expected = 2 if words[-1] == "schedule=artcle" else 0
    if process.returncode != expected:
        sys.exit((folder / "log.txt").read_text(encoding="utf-8"))
    return used.ru_utime + used.ru_stime


def job_seconds(checkout: Path, folder: Path) -> float:
    """Processor time of the later jobs of a sweep, each from its start to its first step: the median, in seconds."""
    (folder / "clock.jsonl").unlink(missing_ok=True)
    run(checkout, folder, SWEEP)
    noted = [json.loads(line) for line in (folder / "clock.jsonl").read_text(encoding="utf-8").splitlines()]
    ends = [seconds for what, seconds in noted if what == "end"]
    steps = [seconds for what, seconds in noted if what == "first step"]
    return statistics.median(step - end for end, step in zip(ends[:-1], steps[1:], strict=True))


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("other", type=Path, help="another checkout")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    checkouts = {"before": arguments.other.resolve(), "now": FOLDER.parents[1]}
    found: dict[tuple[str, str], list[float]] = {}
    with tempfile.TemporaryDirectory() as name:
        folders = {version: Path(name) / version for version in checkouts}
        for version, folder in folders.items():
            folder.mkdir()
            run(checkouts[version], folder, (*TRAIN, "run_dir=finished"))
            image = next(folder.glob("data/phantoms/**/*.png"))
            (folder / "one.png").write_bytes(image.read_bytes())
            run(checkouts[version], folder, COMMANDS["predict, one image"])  # stores the run's calibration
        for _round in range(arguments.rounds):
            for command, words in COMMANDS.items():
                for version, folder in folders.items():
                    found.setdefault((command, version), []).append(run(checkouts[version], folder, words))
            for version, folder in folders.items():
                seconds = job_seconds(checkouts[version], folder)
                found.setdefault(("later job of a sweep, to the first step", version), []).append(seconds)
            write(found)


def write(found: dict[tuple[str, str], list[float]]) -> None:
    """Write the table, after every round."""
    with (FOLDER / "start.csv").open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(["command", "version", "cpu_seconds", "lowest", "highest", "rounds"])
        for (command, version), times in found.items():
            values = (statistics.median(times), min(times), max(times))
            table.writerow([command, version, *(f"{value:.2f}" for value in values), len(times)])


if __name__ == "__main__":
    main()
