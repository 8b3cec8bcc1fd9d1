"""How time and memory of ``covid-xray train`` grow with the number of images and with their size: growth.csv.

``python experiments/speed/growth.py``; drawn chests, so that any number can be had. Whole epochs, with validation and
checkpoint, against the number of images; training alone against their size, since the rest does not depend on it. The
runs that are compared take turns, and ratios are taken within a round.
"""

import csv
import statistics
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench import HERE, hardware, started, take_turns, write_table

PHASE = "schedule.phases.frozen_small"
DROPPED = [f"~schedule.phases.{name}" for name in ("unfrozen_small", "frozen_large", "unfrozen_large")]
ROUNDS = 3


@dataclass(frozen=True)
class Point:
    """A training run.

    Attributes:
        patients: Chests that are drawn, one image each.
        size: Side of the images that are trained on, in pixels.
        batch: Images per step.
        model: Config group.
    """

    patients: int
    size: int
    batch: int
    model: str

    def command(self) -> list[str]:
        """What starts the run."""
        settings = [
            "data=phantom", f"data.patients={self.patients}", "data.images_per_patient=1", f"data.size={self.size}",
            "data.root=phantoms", f"model={self.model}", "model.weights=null", *DROPPED,
            f"{PHASE}.image_size={self.size}", f"{PHASE}.batch_size={self.batch}", f"{PHASE}.trains=all",
            f"{PHASE}.epochs=10000", f"{PHASE}.max_lr=1e-5", "run_dir=run",
        ]  # fmt: skip
        return [sys.executable, str(HERE / "contenders.py"), "train_with", *settings]


GROWTH = {
    "images": [Point(600 * times, 64, 16, "resnet18") for times in (1, 4, 16)],
    "pixels": [Point(100, size, 8, "resnet50") for size in (112, 224, 448)],
}


def main() -> None:
    """Let both grow; the table is written anew after each."""
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as name:
        for grows, points in GROWTH.items():
            rows += measure(grows, points, Path(name) / grows)
            write_table(HERE / "growth.csv", rows)


def measure(grows: str, points: list[Point], folder: Path) -> list[dict[str, Any]]:
    """Time some runs in turn; a row for each, with its cost against the smallest's."""
    names = [str(point) for point in points]
    with started(dict(zip(names, (point.command() for point in points), strict=True)), folder, 3) as running:
        images = [trained_images(folder / f"{index}/run/splits.csv", point.batch) for index, point in enumerate(points)]
        asked = {
            name: ("images", number) if grows == "images" else ("seconds", 6)
            for name, number in zip(names, images, strict=True)
        }
        take_turns(running, 1, asked)  # the epoch that is under way is ended
        rounds = take_turns(running, ROUNDS, asked)
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
    """Images of an epoch: the last batch, if not full, is dropped."""
    with splits.open(encoding="utf-8") as handle:
        number = sum(row["split"] == "train" for row in csv.DictReader(handle))
    return number // batch * batch


if __name__ == "__main__":
    main()
