"""Processor time of a step whose body is frozen with fixed BatchNorm: a bare loop, ``train``, and cached features.

``python experiments/speed/frozen.py`` writes frozen.csv. Each way is a process in which, after every step of
``covid-xray train``, the bare loop makes one step on a synthetic batch; both use one thread. Times are medians over the
steps, and the ratio is the median of the ratios within a turn.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from bench import HERE, hardware, write_table
from contenders import our_network
from lightning import Callback, LightningModule, Trainer
from torch.nn import functional as F

from covid_xray.cli import main as run_command

WARM_UP = 12  # steps; the images of the phase must have passed the body in them
WAYS = {
    "train, BatchNorm fixed": [],
    "train, cached features": ["schedule.phases.frozen_small.cached_features=true"],
}


def main() -> None:
    """Measure every way; write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--steps", type=int, default=24)
    parser.add_argument("--output", type=Path, default=HERE / "frozen.csv")
    parser.add_argument("--way", help=argparse.SUPPRESS)
    options = parser.parse_args()
    settings = {name: getattr(options, name) for name in ("size", "batch", "steps")}
    if options.way:
        return measure(settings, WAYS[options.way])
    rows = []
    for way in WAYS:
        arguments = [str(text) for name, value in settings.items() for text in (f"--{name}", value)]
        with tempfile.TemporaryDirectory() as folder:
            answer = subprocess.run(
                [sys.executable, str(Path(__file__).absolute()), "--way", way, *arguments],
                cwd=folder, check=True, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": str(HERE)},
            )  # fmt: skip
        rows.append({"way": way, **settings, **json.loads(answer.stdout.splitlines()[-1]), "hardware": hardware()})
        print(*rows[-1].values(), sep="  ", flush=True)
    write_table(options.output, rows)
    return None


class Turns(Callback):
    """Makes a step of the bare loop after every step of the training, and ends the process with the medians.

    Args:
        size: Side of the images.
        batch: Images per step.
        steps: Number of steps to measure.
    """

    def __init__(self, size: int, batch: int, steps: int) -> None:
        scenario = {"size": size, "batch": batch, "unfrozen": False, "train_bn": False}
        self.network = our_network(scenario).to(memory_format=torch.channels_last)
        images = torch.randn(batch, 3, size, size)
        self.images = images.contiguous(memory_format=torch.channels_last)
        self.labels = torch.arange(batch) % 3
        self.optimizer = torch.optim.AdamW(self.network.parameters(), lr=1e-5, fused=True)
        self.steps, self.times, self._start = steps, list[tuple[float, float]](), 0.0

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Note the time since the step before, but for an epoch's first step, which follows a validation."""
        ours = time.process_time() - self._start
        start = time.process_time()
        self.bare_step()
        if batch_idx:
            self.times.append((ours, time.process_time() - start))
        if len(self.times) == WARM_UP + self.steps:
            own, bare = zip(*self.times[WARM_UP:], strict=True)
            ratio = statistics.median(b / a for a, b in self.times[WARM_UP:])
            found = {"step_ms": statistics.median(own), "bare_step_ms": statistics.median(bare)}
            print(
                json.dumps({k: round(1e3 * v, 1) for k, v in found.items()} | {"of_bare": round(ratio, 3)}), flush=True
            )
            os._exit(0)
        self._start = time.process_time()

    def bare_step(self) -> None:
        """A step of the ceiling in `bench`."""
        with torch.autocast("cpu", torch.bfloat16):
            logits = self.network(self.images)
        loss = F.cross_entropy(logits.float(), self.labels)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()


def measure(settings: dict[str, int], overrides: list[str]) -> None:
    """Train the head of a ResNet-50 on phantoms until `Turns` has its measurements."""
    torch.set_num_threads(1)
    phase = "schedule.phases.frozen_small"
    turns = [f"+callbacks.turns.{name}={value}" for name, value in settings.items()]
    sys.argv[1:] = [
        "train", "+callbacks.turns._target_=frozen.Turns", *turns,
        "data=phantom", "data.patients=80", "data.images_per_patient=2", "data.size=256", "weights=null",
        *(f"~schedule.phases.{name}" for name in ("unfrozen_small", "frozen_large", "unfrozen_large")),
        f"{phase}.image_size={settings['size']}", f"{phase}.batch_size={settings['batch']}", f"{phase}.epochs=10000",
        f"{phase}.train_bn=false", f"{phase}.max_lr=1e-5", "datamodule.num_workers=0", "run_dir=run", *overrides,
    ]  # fmt: skip
    run_command()


if __name__ == "__main__":
    main()
