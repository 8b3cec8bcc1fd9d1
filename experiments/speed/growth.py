"""Measures how time and memory of ``covid-xray train`` grow with the number of images and with their size.

``python experiments/speed/growth.py`` writes growth.csv. The images are phantoms. For the number of images, whole
epochs count, with validation and checkpoint; for their size, only training steps count. The compared runs take turns,
and ratios are computed within a round.
"""

import statistics
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from bench import HERE, hardware, started, take_turns, write_table

PHASE = "schedule.phases.frozen_small"
DROPPED = [f"~schedule.phases.{name}" for name in ("unfrozen_small", "frozen_large", "unfrozen_large")]
ROUNDS = 3


@dataclass(frozen=True)
class Point:
    """A training run.

    Attributes:
        patients: Number of patients, with one image each.
        size: Side of the training images, in pixels.
        batch: Images per step.
        model: Name of the network.
    """

    patients: int
    size: int
    batch: int
    model: str

    def command(self) -> list[str]:
        """Command line of the run."""
        settings = [
            "data=phantom", f"data.patients={self.patients}", "data.images_per_patient=1", f"data.size={self.size}",
            "data.root=phantoms", f"model.architecture={self.model}", "weights=null", *DROPPED,
            f"{PHASE}.image_size={self.size}", f"{PHASE}.batch_size={self.batch}", f"{PHASE}.trains=all",
            f"{PHASE}.epochs=10000", f"{PHASE}.max_lr=1e-5", "run_dir=run",
        ]  # fmt: skip
        return [sys.executable, str(HERE / "contenders.py"), "train_with", *settings]


GROWTH = {
    "images": [Point(600 * times, 64, 16, "resnet18") for times in (1, 4, 16)],
    "pixels": [Point(100, size, 8, "resnet50") for size in (112, 224, 448)],
}


def main() -> None:
    """Measure both kinds of growth; the table is written after each."""
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as name:
        for grows, points in GROWTH.items():
            rows += measure(grows, points, Path(name) / grows)
            write_table(HERE / "growth.csv", rows)


def measure(grows: str, points: list[Point], folder: Path) -> list[dict[str, Any]]:
    """Measure some runs in turn; return a row for each, with its cost relative to that of the smallest."""
    names = [str(point) for point in points]
    with started(dict(zip(names, (point.command() for point in points), strict=True)), folder, 3) as running:
        images = [trained_images(folder / f"{index}/run/splits.csv", point.batch) for index, point in enumerate(points)]
        requests = {
            name: ("images", number) if grows == "images" else ("seconds", 6)
            for name, number in zip(names, images, strict=True)
        }
        take_turns(running, 1, requests)  # ends the current epoch
        rounds = take_turns(running, ROUNDS, requests)
    rows = []
    for index, (name, point) in enumerate(zip(names, points, strict=True)):
        share = 1 if grows == "images" else (point.size / points[0].size) ** 2
        costs = [{each: answer["seconds"] / answer["images"] for each, answer in turns.items()} for turns in rounds]
        row = {
            "grows": grows,
            "images": images[index],
            "pixels": point.size**2,
            "batch": point.batch,
            "model": point.model,
            "milliseconds_per_image": round(1000 * statistics.median(cost[name] for cost in costs), 2),
            "of_linear": round(statistics.median(cost[name] / cost[names[0]] / share for cost in costs), 3),
            "peak_mb": round(rounds[-1][name]["peak_mb"]),
            "start_seconds": round(running[name].first_step, 1),
            "hardware": hardware(),
        }
        print(*row.values(), flush=True)
        rows.append(row)
    return rows


def trained_images(splits: Path, batch: int) -> int:
    """Training images of an epoch, without the last batch if it is not full."""
    number = int((pd.read_csv(splits)["split"] == "train").sum())
    return number // batch * batch


if __name__ == "__main__":
    main()
