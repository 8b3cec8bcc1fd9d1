"""Time and price of the article's schedule with 12,000 training and 3,000 validation images and 20 epochs.

``python experiments/speed/article_scale.py --dollars-per-hour 3.50`` writes article_scale.csv; it is meant for a GPU.
Further arguments are settings of ``covid-xray train``, such as ``compile=reduce-overhead``. The time to draw the images
does not count; the whole time of ``train`` does, from the start of the process to its end.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

from bench import HERE, hardware, write_table
from lightning import Callback, LightningModule, Trainer

from covid_xray.data.phantom import PhantomSet, make_phantoms


class Clock(Callback):
    """Writes the start of every epoch and the end of the last one into clock.json in the working folder."""

    def __init__(self) -> None:
        self.epochs: list[tuple[str, float]] = []

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Record the start of an epoch."""
        self.epochs.append((pl_module.schedule.at(trainer.current_epoch).name, time.time()))

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the file."""
        images = trainer.datamodule.counts()
        times = {"epochs": self.epochs, "end": time.time()}
        counts = {split: int(images[split].sum()) for split in ("train", "val")}
        Path("clock.json").write_text(json.dumps(times | counts))


def main() -> None:
    """Train once; write a row for each phase and one for the total."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dollars-per-hour", type=float, required=True, help="price of the machine")
    parser.add_argument("--images", type=int, default=15_000, help="number of training and validation images")
    parser.add_argument("--pixels", type=int, default=512, help="side of the phantoms")
    parser.add_argument("--output", type=Path, default=HERE / "article_scale.csv")
    options, settings = parser.parse_known_args()
    with tempfile.TemporaryDirectory() as name:
        patients = round(options.images / 0.9)  # a tenth of the patients is the test set
        make_phantoms(Path(name) / "phantoms", PhantomSet(patients, 1, options.pixels))
        command = [
            sys.executable, "-m", "covid_xray", "train", "experiment=article", "data=phantom", "data.root=phantoms",
            f"data.patients={patients}", "data.images_per_patient=1", f"data.size={options.pixels}",
            "split.test_share=0.1", "split.val_share=0.2", "weights=null", "run_dir=run",
            "+callbacks.clock._target_=article_scale.Clock", *settings,
        ]  # fmt: skip
        start = time.time()
        subprocess.run(command, cwd=name, check=True, env={**os.environ, "PYTHONPATH": str(HERE)})
        rows = table(json.loads((Path(name) / "clock.json").read_text()), start, time.time())
    for row in rows:
        row["dollars"] = round(row["seconds"] / 3600 * options.dollars_per_hour, 3)
        print(*row.values(), sep="  ")
    environment = {"settings": " ".join(settings), "dollars_per_hour": options.dollars_per_hour, "hardware": hardware()}
    write_table(options.output, [row | environment for row in rows])


def table(clock: dict[str, Any], start: float, end: float) -> list[dict[str, Any]]:
    """Seconds before the first epoch, of every phase with its validations, after the last epoch, and in total."""
    begins = dict(reversed(clock["epochs"]))  # reversed: the first epoch of a phase overwrites the later ones
    phases = list(dict.fromkeys(name for name, _ in clock["epochs"]))
    marks = [start, *(begins[name] for name in phases), clock["end"], end]
    parts = ["audit, resizing, start", *phases, "test, figures"]
    seconds = {part: after - before for part, before, after in zip(parts, marks[:-1], marks[1:], strict=True)}
    epochs = Counter(name for name, _ in clock["epochs"])
    return [
        {
            "part": part,
            "epochs": epochs.get(part, ""),
            "images": clock["train"] if part in epochs else "",
            "val_images": clock["val"] if part in epochs else "",
            "seconds": round(duration, 1),
            "images_per_second": round(epochs[part] * clock["train"] / duration, 1) if part in epochs else "",
        }
        for part, duration in (seconds | {"total": end - start}).items()
    ]


if __name__ == "__main__":
    main()
