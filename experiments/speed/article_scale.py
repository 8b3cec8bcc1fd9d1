"""The article's schedule at the article's scale, timed and priced: 12,000 images, 3,000 to validate on, 20 epochs.

``python experiments/speed/article_scale.py --dollars-per-hour 3.50`` writes article_scale.csv; meant for a GPU. Further
arguments are settings of ``covid-xray train``, such as ``compile=reduce-overhead``. Images are drawn first, which is
not counted; whatever ``train`` does, from its start to its last line, is.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from bench import HERE, hardware, write_table
from lightning import Callback, LightningModule, Trainer

from covid_xray.data.phantom import make_phantoms


class Clock(Callback):
    """Writes down when every epoch begins, and when the last one ended, into clock.json of the working folder."""

    def __init__(self) -> None:
        self.epochs: list[tuple[str, float]] = []

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """One more epoch."""
        self.epochs.append((pl_module.schedule.at(trainer.current_epoch).name, time.time()))

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write it down."""
        images = trainer.datamodule.counts()
        said = {"epochs": self.epochs, "end": time.time(), "train": int(images["train"].sum())}
        Path("clock.json").write_text(json.dumps(said | {"val": int(images["val"].sum())}))


def main() -> None:
    """Train once; write a row for each phase and one for everything."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dollars-per-hour", type=float, required=True, help="price of the machine")
    parser.add_argument("--images", type=int, default=15_000, help="to train and validate on")
    parser.add_argument("--pixels", type=int, default=512, help="side of the drawn images")
    parser.add_argument("--output", type=Path, default=HERE / "article_scale.csv")
    options, settings = parser.parse_known_args()
    with tempfile.TemporaryDirectory() as name:
        patients = round(options.images / 0.9)  # a tenth is the test set
        make_phantoms(Path(name) / "phantoms", patients, 1, options.pixels, 0)
        command = [
            sys.executable, "-m", "covid_xray", "train", "experiment=article", "data=phantom", "data.root=phantoms",
            f"data.patients={patients}", "data.images_per_patient=1", f"data.size={options.pixels}",
            "data.test_share=0.1", "data.val_share=0.2", "model.weights=null", "run_dir=run",
            "+callbacks.clock._target_=article_scale.Clock", *settings,
        ]  # fmt: skip
        born = time.time()
        subprocess.run(command, cwd=name, check=True, env={**os.environ, "PYTHONPATH": str(HERE)})
        rows = table(json.loads((Path(name) / "clock.json").read_text()), born, time.time())
    for row in rows:
        row["dollars"] = round(row["seconds"] / 3600 * options.dollars_per_hour, 3)
        print(*row.values(), sep="  ")
    where = {"settings": " ".join(settings), "dollars_per_hour": options.dollars_per_hour, "hardware": hardware()}
    write_table(options.output, [row | where for row in rows])


def table(clock: dict[str, Any], born: float, died: float) -> list[dict[str, Any]]:
    """Seconds of everything before the first epoch, of every phase with its validations, of the rest, and in all."""
    begins = dict(reversed(clock["epochs"]))  # the first epoch of a phase comes last, and stays
    phases = list(dict.fromkeys(name for name, _ in clock["epochs"]))
    marks = [born, *(begins[name] for name in phases), clock["end"], died]
    parts = ["audit, resizing, start", *phases, "test, figures"]
    seconds = {part: end - start for part, start, end in zip(parts, marks[:-1], marks[1:], strict=True)}
    epochs = {name: sum(name == each for each, _ in clock["epochs"]) for name in phases}
    return [
        {
            "part": part,
            "epochs": epochs.get(part, ""),
            "images": clock["train"] if part in epochs else "",
            "val_images": clock["val"] if part in epochs else "",
            "seconds": round(took, 1),
            "images_per_second": round(epochs[part] * clock["train"] / took, 1) if part in epochs else "",
        }
        for part, took in (seconds | {"in all": died - born}).items()
    ]


if __name__ == "__main__":
    main()
