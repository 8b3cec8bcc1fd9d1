"""Kill tiny runs at random moments, continue them, and compare the results with a run that is left alone.

Every session is the command ``train`` in a process of its own, forked from this one so that nothing is imported again.
A moment is drawn uniformly from the length of a whole run; a session that ends before its moment is no trial. After
each signal the same command continues the run, until it is finished and compared; then the next run begins. The same
command continues an interrupted series.
"""

import argparse
import csv
import json
import os
import random
import shutil
import signal
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from torch import Tensor

import covid_xray.commands.train
import covid_xray.data.augmentation
import covid_xray.runs.fit  # noqa: F401 imported before the sessions are forked
from covid_xray import cli

HERE = Path(__file__).parent
COLUMNS = ("run", "signal", "workers", "every_minutes", "seconds", "stage", "exit", "verdict")
PARTS = ("state_dict", "optimizer_states", "epoch", "global_step", "callbacks")
STAGE = Path("stage")


class Stage(Callback):
    """Writes into a file what the run does."""

    def _note(self, name: str) -> None:
        with STAGE.open("r+b") as file:  # never empty, unlike a file that is truncated first
            file.write(f"{name:<10}".encode())

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Training."""
        self._note("training")

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Validation."""
        self._note("validation")

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The end of an epoch."""
        self._note("saving")

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """A checkpoint is written."""
        self._note("saving")

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Test."""
        self._note("test")

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Metrics are written and printed."""
        self._note("end")


def start(folder: Path, workers: int, every_minutes: str) -> int:
    """Start one session; return its process id."""
    STAGE.write_text("start     ", encoding="utf-8")
    if pid := os.fork():
        return pid
    log = os.open("log.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    sys.modules["kill_and_resume"] = sys.modules["__main__"]
    sys.argv[:] = [
        *("covid-xray", "train", "experiment=tiny", "trainer.accelerator=cpu", f"run_dir={folder}"),
        *(f"datamodule.num_workers={workers}", f"checkpoint.every_minutes={every_minutes}"),
        "+callbacks.stage._target_=kill_and_resume.Stage",
    ]
    cli.main()
    sys.exit(0)


def end(pid: int, moment: float | None, signum: int) -> tuple[int, float, str | None]:
    """Wait for the end of a session.

    Args:
        pid: Its process id.
        moment: Seconds until the signal is sent; None: never.
        signum: The signal.

    Returns:
        Exit code as a shell gives it, seconds, and the stage when the signal was sent; None if it ended before that.
    """
    begin, stage = time.monotonic(), None
    while True:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            code = os.waitstatus_to_exitcode(status)
            return (128 - code if code < 0 else code), time.monotonic() - begin, stage
        if moment is not None and stage is None and time.monotonic() - begin >= moment:
            stage = STAGE.read_text(encoding="utf-8").strip()
            os.kill(pid, signum)
        time.sleep(0.002)


def difference(a: object, b: object, where: str) -> str:
    """The first place where two states differ in any bit; empty if there is none."""
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        return "" if torch.equal(a, b) else where
    if isinstance(a, dict) and isinstance(b, dict):
        places = (difference(a[key], b.get(key), f"{where}.{key}") for key in a)
        return next(filter(None, places), "" if a.keys() == b.keys() else f"{where}: keys")
    if isinstance(a, list | tuple) and isinstance(b, list | tuple) and len(a) == len(b):
        return next(filter(None, (difference(x, y, where) for x, y in zip(a, b, strict=True))), "")
    return "" if a == b else f"{where}: {a} != {b}"


def compare(run: Path, whole: Path) -> str:
    """``identical``, or what differs between two finished runs."""
    found = []
    for name in ("last.ckpt", "best.ckpt"):
        a, b = (torch.load(path / "checkpoints" / name, weights_only=True) for path in (whole, run))
        found += [difference(a[part], b[part], f"{name} {part}") for part in PARTS]
    a, b = (json.loads((path / "metrics.json").read_text(encoding="utf-8")) for path in (whole, run))
    found.append(difference(a, b, "metrics.json"))
    found += [f"{file.name} is left over" for file in run.rglob("*") if file.suffix == ".tmp" or "next" in file.name]
    return "; ".join(filter(None, found)) or "identical"


def series(kills: int, terms: int, seed: int, results: Path, deadline: float) -> bool:
    """Run sessions until there are enough trials and the last run is finished; return whether that is so in time."""
    rows: list[dict[str, Any]] = []
    if results.is_file():
        with results.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
    whole = Path("whole")
    if not (whole / "metrics.json").is_file():
        if end(start(whole, 0, "null"), None, 0)[0]:
            sys.exit(Path("log.txt").read_text(encoding="utf-8"))
        shutil.rmtree(whole)  # again, now that the images are drawn and read
        begin = time.monotonic()
        end(start(whole, 0, "null"), None, 0)
        Path("length.txt").write_text(f"{time.monotonic() - begin:.2f}", encoding="utf-8")
    length = float(Path("length.txt").read_text(encoding="utf-8"))
    while time.monotonic() < deadline:
        sent = [row["signal"] for row in rows]
        left = ["SIGKILL"] * (kills - sent.count("SIGKILL")) + ["SIGTERM"] * (terms - sent.count("SIGTERM"))
        number = int(rows[-1]["run"]) + (rows[-1]["verdict"] != "") if rows else 0
        if not left and (not rows or rows[-1]["verdict"]):
            return True
        draw = random.Random(f"{seed} {len(rows)}")
        name = draw.choice(left) if left else ""
        workers, every_minutes = draw.choice((0, 2)), draw.choice(("null", "0.01"))
        moment = draw.uniform(0, length) if name else None
        run = Path(f"run-{number}")
        signum = getattr(signal, name) if name else 0
        code, seconds, stage = end(start(run, workers, every_minutes), moment, signum)
        finished, verdict = (run / "metrics.json").is_file(), ""
        # After a signal, the metrics may be there although the process did not end by itself.
        if not (finished if code == 0 else stage and code == 128 + signum):
            verdict = f"exit {code}, {'finished' if finished else 'not finished'}"
        if finished and not verdict:
            verdict = compare(run, whole)
        signal_sent = name if stage else ""
        values = (number, signal_sent, workers, every_minutes, f"{seconds:.2f}", stage or "", code, verdict)
        rows.append({key: str(value) for key, value in zip(COLUMNS, values, strict=True)})
        with results.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)
        print(f"{sent.count('SIGKILL')} + {sent.count('SIGTERM')} trials; {' '.join(rows[-1].values())}", flush=True)
        if verdict == "identical":
            shutil.rmtree(run)
    return False


def main() -> None:
    """Read the command line, run the series and print its sums."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=100, help="number of SIGKILLs")
    parser.add_argument("--terms", type=int, default=40, help="number of SIGTERMs")
    parser.add_argument("--minutes", type=float, default=1e9, help="stop after this time; the same command continues")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--results", type=Path, default=HERE / "results.csv", help="a row per session; continued")
    parser.add_argument("--folder", type=Path, default=Path("outputs/kill_and_resume"), help="for the runs")
    arguments = parser.parse_args()
    results = arguments.results.resolve()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    os.chdir(arguments.folder)
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS") or torch.get_num_threads()))
    done = series(arguments.kills, arguments.terms, arguments.seed, results, time.monotonic() + 60 * arguments.minutes)
    with results.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    verdicts = [row["verdict"] for row in rows if row["verdict"]]
    for name in ("SIGKILL", "SIGTERM"):
        of_signal = [row for row in rows if row["signal"] == name]
        exits, stages = (dict(Counter(row[column] for row in of_signal)) for column in ("exit", "stage"))
        print(f"{name}: {len(of_signal)}; exit codes {exits}; stages {stages}")
    identical = verdicts.count("identical")
    print(f"{identical} of {len(verdicts)} finished runs are identical to the one that was left alone")
    sys.exit(0 if done and identical == len(verdicts) else 1)


if __name__ == "__main__":
    main()
