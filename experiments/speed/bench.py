"""Compares the speed of training and evaluation with fastai 2, torchvision's reference loop and a bare PyTorch loop.

``make bench`` runs it and writes results.csv beside this file. Every contender is a process that trains without end,
but only when it is its turn (see `pacing`). In each round, every contender has one turn. Speeds are medians over the
rounds, and ratios are computed within a round, because of run-to-run noise.
"""

import argparse
import json
import os
import platform
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from multiprocessing.connection import Connection, Listener
from pathlib import Path
from typing import Any, Self

import pandas as pd
import torch

from covid_xray.data.images.read import write_png
from covid_xray.data.phantom import CLASSES, draw_phantom
from covid_xray.files import write_atomically

HERE = Path(__file__).parent
REAL = HERE.parents[2] / "shared/data/chest-xrays"
Round = dict[str, dict[str, float]]  # answer of every contender, by name
GPU = torch.cuda.is_available()  # a GPU needs more images and larger batches
SPLITS = {"train": 6400 if GPU else 320, "val": 64, "test": 16}
CEILING, OURS, FASTAI = "bare loop, bf16, channels_last", "covid-xray train", "fastai 2 as documented"


@dataclass(frozen=True)
class Scenario:
    """What is trained.

    Attributes:
        name: Name in the table.
        root: Folder of the images, ``train|val|test/<class>/``.
        size: Side of the images, in pixels.
        batch: Images per step.
        images: Number of images to evaluate.
        unfrozen: Whether the body trains.
        train_bn: Whether BatchNorm trains in a frozen body.
        run: A run folder to evaluate.
    """

    name: str
    root: str
    size: int
    batch: int
    images: int
    unfrozen: bool = True
    train_bn: bool = True
    run: str = ""


class Contender:
    """A process that trains only on request.

    Args:
        name: Name in the table.
        command: Command line of the process.
        folder: Its working folder; its output goes to the file ``log`` there.
    """

    def __init__(self, name: str, command: list[str], folder: Path) -> None:
        folder.mkdir(parents=True)
        self.name, self._log = name, folder / "log"
        listener = Listener(str(folder / "socket"))
        environment = {
            "PACER": str(folder / "socket"),
            "PACER_START": str(time.time()),
            "PYTHONPATH": str(HERE),
            "NO_ALBUMENTATIONS_UPDATE": "1",
        }
        with self._log.open("w") as log:
            self._process = subprocess.Popen(
                command, cwd=folder, stdout=log, stderr=log, env={**os.environ, **environment}
            )
        self._connection: Connection = self._accept(listener)
        self.first_step = self._answer()["seconds"]

    def __enter__(self) -> Self:
        """Return the running process."""
        return self

    def __exit__(self, *_: object) -> None:
        """End the process."""
        self._process.kill()
        self._process.wait()

    def ask(self, kind: str, amount: float) -> dict[str, float]:
        """Train for some ``seconds`` or on some ``images``; return images, seconds and peak memory."""
        self._connection.send_bytes(json.dumps([kind, amount]).encode())
        return self._answer()

    def _accept(self, listener: Listener) -> Connection:
        listener._listener._socket.settimeout(1)  # type: ignore[attr-defined]
        while self._process.poll() is None:
            try:
                return listener.accept()
            except TimeoutError:
                continue
        raise self._failure()

    def _answer(self) -> dict[str, float]:
        try:
            answer: dict[str, float] = json.loads(self._connection.recv_bytes())
        except EOFError:
            raise self._failure() from None
        return answer

    def _failure(self) -> SystemExit:
        return SystemExit(f"{self.name} ended:\n{self._log.read_text()[-3000:]}")


def main() -> None:
    """Measure every scenario and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--fastai", help="Python of a virtual environment with fastai 2")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=4, help="minimum duration of one measurement")
    parser.add_argument("--only", nargs="*", help="names of scenarios; rows of the others are kept")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        rows: list[dict[str, Any]] = []
        kept = read_others(HERE / "results.csv", options.only) if options.only else []
        for scenario in scenarios(make_images(folder / "images")):
            if options.only and scenario.name not in options.only:
                continue
            groups = contenders(scenario, options.fastai)
            if "evaluation" in scenario.name:
                scenario = replace(scenario, run=finished_run(folder / f"{scenario.name} run", scenario))
                groups = evaluators(scenario, options.fastai)
            for number, commands in enumerate(groups):
                group_folder = folder / f"{scenario.name} {number}"
                rows += compete(scenario, commands, group_folder, options.repeats, options.seconds)
                write(HERE / "results.csv", kept, rows, options.fastai)


def scenarios(root: str) -> list[Scenario]:
    """The phases of the article's schedule, and evaluation; smaller batches without a GPU."""
    small = Scenario("", root, 224, batch=64 if GPU else 16, images=6400 if GPU else 256)
    large = Scenario("", root, 448, batch=16 if GPU else 8, images=6400 if GPU else 96)
    return [
        replace(small, name="unfrozen 224"),
        replace(small, name="frozen 224", unfrozen=False),
        replace(small, name="frozen 224, BatchNorm fixed", unfrozen=False, train_bn=False),
        replace(small, name="evaluation 224"),
        replace(large, name="unfrozen 448"),
        replace(large, name="frozen 448", unfrozen=False),
        replace(large, name="evaluation 448"),
    ]


def contenders(scenario: Scenario, fastai: str | None) -> list[dict[str, list[str]]]:
    """Commands of the training contenders, by name; in two groups, to limit the memory that is in use at a time."""
    settings = json.dumps(asdict(scenario))
    ours = [sys.executable, str(HERE / "contenders.py")]
    bare = {
        f"bare loop, {precision}, {form}": [*ours, "bare", settings, precision, form]
        for precision in ("float32", "bf16")
        for form in ("contiguous_format", "channels_last")
    }
    lightning = ("trainer.precision=32-true", "optimizer.fused=false")
    whole = {
        CEILING: bare[CEILING],
        OURS: [*ours, "train", settings],
        "our module, Lightning's defaults": [*ours, "train", settings, *lightning],
        "torchvision reference loop": [*ours, "reference", settings],
    }
    if GPU:  # on CPUs, compiling takes minutes and is not faster
        bare[f"{CEILING}, compiled"] = [*ours, "bare", settings, "bf16", "channels_last", "compiled"]
        compiled = ("compile=default", "compile=reduce-overhead")
        for change in (*compiled, "+trainer.benchmark=true", "trainer.log_every_n_steps=10"):
            whole[f"{OURS} {change}"] = [*ours, "train", settings, change]
    if fastai:
        side = [str(Path(fastai).absolute()), str(HERE / "fastai_side.py"), settings]
        whole |= {FASTAI: side, "fastai 2, its faster options": [*side, "options"]}
        if not scenario.train_bn:
            whole["fastai 2, train_bn=False"] = [*side, "train_bn=False"]
    return [bare, whole]


def evaluators(scenario: Scenario, fastai: str | None) -> list[dict[str, list[str]]]:
    """Commands of the evaluating contenders, by name."""
    settings = json.dumps(asdict(scenario))
    ours = [sys.executable, str(HERE / "contenders.py")]
    names = {CEILING: "bare_forward", "covid-xray predict": "predict", "covid-xray evaluate, passes": "evaluate"}
    commands = {name: [*ours, function, settings] for name, function in names.items()}
    if fastai:
        commands[FASTAI] = [str(Path(fastai).absolute()), str(HERE / "fastai_side.py"), settings, "validate"]
    return [commands]


@contextmanager
def started(commands: dict[str, list[str]], folder: Path, seconds: float) -> Iterator[dict[str, Contender]]:
    """Start all contenders and warm them up; end them afterwards, also after an error."""
    with ExitStack() as stack:
        running: dict[str, Contender] = {}
        for number, (name, command) in enumerate(commands.items()):
            running[name] = stack.enter_context(Contender(name, command, folder / str(number)))
            running[name].ask("seconds", seconds)
        yield running


def take_turns(running: dict[str, Contender], repeats: int, requests: dict[str, tuple[str, float]]) -> list[Round]:
    """Send every contender its request in every round, and return the answers."""
    return [{name: each.ask(*requests[name]) for name, each in running.items()} for _ in range(repeats)]


def images_per_second(rounds: list[Round]) -> list[dict[str, float]]:
    """Speed of every contender by name, for every round."""
    return [{name: answer["images"] / answer["seconds"] for name, answer in each.items()} for each in rounds]


def compete(
    scenario: Scenario, commands: dict[str, list[str]], folder: Path, repeats: int, seconds: float
) -> list[dict[str, Any]]:
    """Measure all contenders in turn; return a row for each."""
    with started(commands, folder, seconds) as running:
        rounds = take_turns(running, repeats, dict.fromkeys(running, ("seconds", seconds)))
        # At 448 pixels, an epoch of fastai takes seven minutes on two cores.
        whole_epochs = [name for name in (OURS, FASTAI) if name in running and (GPU or scenario.size < 448)]
        epoch = {name: running[name].ask("images", SPLITS["train"]) for name in whole_epochs}
    starts = {name: each.first_step for name, each in running.items()}
    rates = images_per_second(rounds)

    def ratio(name: str, other: str) -> float | str:
        if other not in commands:
            return ""
        return round(statistics.median(each[name] / each[other] for each in rates), 3)

    rows = []
    for name in commands:
        speeds = [each[name] for each in rates]
        row = {
            "scenario": scenario.name,
            "size": scenario.size,
            "batch": scenario.batch,
            "contender": name,
            "images_per_second": round(statistics.median(speeds), 2),
            "lowest": round(min(speeds), 2),
            "highest": round(max(speeds), 2),
            "of_ceiling": ratio(name, CEILING),
            "of_fastai": ratio(name, FASTAI),
            "peak_mb": round(max(each[name]["peak_mb"] for each in rounds)),
            "first_step_seconds": round(starts[name], 1),
            "epoch_seconds": round(epoch[name]["seconds"], 1) if name in epoch else "",
            "repeats": repeats,
        }
        print(*row.values(), sep="  ", flush=True)
        rows.append(row)
    return rows


def make_images(folder: Path) -> str:
    """Make images of three classes in three splits: real X-rays if they are beside the repository, or phantoms."""
    real = sorted(REAL.glob("*/*.jpg"))
    random.Random(0).shuffle(real)
    splits = [split for split, number in SPLITS.items() for _ in range(number)]
    for index, split in enumerate(splits):
        original = real[index % len(real)] if real else None
        label = original.parent.name if original else CLASSES[index % 3]
        class_folder = folder / split / label
        class_folder.mkdir(parents=True, exist_ok=True)
        if original:
            (class_folder / f"{index:04d}-{original.name}").symlink_to(original)
        else:
            write_png(class_folder / f"{index:04d}.png", draw_phantom(label, index, 0, 512))
    return str(folder)


def finished_run(folder: Path, scenario: Scenario) -> str:
    """Train the network of the scenario for one epoch, as a run to evaluate; in another process, to free its memory."""
    arguments = [
        "train", "data=phantom", "data.patients=30", "data.images_per_patient=1", "data.size=64", "weights=null",
        *(f"~schedule.phases.{name}" for name in ("unfrozen_small", "frozen_large", "unfrozen_large")),
        f"schedule.phases.frozen_small.image_size={scenario.size}", "schedule.phases.frozen_small.epochs=1",
        f"schedule.phases.frozen_small.batch_size={scenario.batch}", "run_dir=run",
    ]  # fmt: skip
    folder.mkdir()
    subprocess.run([sys.executable, "-m", "covid_xray", *arguments], cwd=folder, check=True, stdout=subprocess.DEVNULL)
    return str(folder / "run")


def read_others(file: Path, scenarios: list[str]) -> list[dict[str, Any]]:
    """Rows of the table of the last measurement, without those of some scenarios."""
    table = pd.read_csv(file, dtype=str, keep_default_na=False)
    return table[~table["scenario"].isin(scenarios)].to_dict("records")


def write(file: Path, kept: list[dict[str, Any]], rows: list[dict[str, Any]], fastai: str | None) -> None:
    """Write the table: the kept rows, then the new rows with hardware and versions."""
    names = ("torch", "torchvision", "lightning", "numpy", "opencv-python-headless")
    versions = "; ".join(f"{name} {version(name)}" for name in names)
    if fastai:
        answer = subprocess.run(
            [fastai, "-c", "import fastai, torch; print(f'fastai {fastai.__version__} on torch {torch.__version__}')"],
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        versions += f"; {answer.stdout.strip()}"
    environment = {"hardware": hardware(), "versions": versions}
    write_table(file, kept + [row | environment for row in rows])


def write_table(file: Path, rows: list[dict[str, Any]]) -> None:
    """Write rows that have the same columns as CSV."""
    write_atomically(file, pd.DataFrame(rows, dtype=object).to_csv(index=False, lineterminator="\n"))


def hardware() -> str:
    """Name of the processor and, if there is one, of the GPU."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    processor = f"{names[0] if names else platform.processor()}, {os.cpu_count()} CPUs"
    return f"{torch.cuda.get_device_name()}; {processor}" if GPU else processor


if __name__ == "__main__":
    main()
