"""How time and memory of ``covid-xray train`` grow with the number of images and with their size: growth.csv.

``python experiments/speed/growth.py``; drawn chests, so that any number can be had. Whole epochs, with validation and
checkpoint, against the number of images; training alone against their size, since the rest does not depend on it.
"""

import csv
import statistics
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench import HERE, Contender, hardware

PHASE = "schedule.phases.frozen_small"
DROPPED = [f"~schedule.phases.{name}" for name in ("unfrozen_small", "frozen_large", "unfrozen_large")]


@dataclass(frozen=True)
class Point:
    """A training run.

    Attributes:
        grows: What is varied: ``images`` or ``pixels``.
        patients: Chests that are drawn, one image each.
        size: Side of the images that are trained on, in pixels.
        batch: Images per step.
        model: Config group.
    """

    grows: str
    patients: int
    size: int
    batch: int
    model: str


POINTS = [Point("images", 300 * times, 64, 16, "resnet18") for times in (1, 4, 16)] + [
    Point("pixels", 100, size, 8, "resnet50") for size in (112, 224, 448)
]


def main() -> None:
    """Measure every point; the table is written anew after each."""
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as name:
        for number, point in enumerate(POINTS):
            rows.append(measure(point, Path(name) / str(number)))
            print(*rows[-1].values(), flush=True)
            with (HERE / "growth.csv").open("w", newline="", encoding="utf-8") as handle:
                writer = csv.DictWriter(handle, list(rows[0]))
                writer.writeheader()
                writer.writerows(rows)


def measure(point: Point, folder: Path) -> dict[str, Any]:
    """The median of three measurements, after one that warms up."""
    folder.mkdir()
    settings = [
        "data=phantom", f"data.patients={point.patients}", "data.images_per_patient=1", f"data.size={point.size}",
        f"data.root={folder}/phantoms", f"model={point.model}", "model.weights=null", *DROPPED,
        f"{PHASE}.image_size={point.size}", f"{PHASE}.batch_size={point.batch}", f"{PHASE}.trains=all",
        f"{PHASE}.epochs=10000", f"{PHASE}.max_lr=1e-5", "run_dir=run",
    ]  # fmt: skip
    command = [sys.executable, str(HERE / "contenders.py"), "train_with", *settings]
    with Contender(f"{point}", command, folder / "work") as contender:
        images = trained_images(folder / "work/run/splits.csv", point.batch)
        what = ("images", images) if point.grows == "images" else ("seconds", 3)
        contender.ask(*what)
        answers = [contender.ask(*what) for _ in range(3)]
    return {
        "grows": point.grows,
        "images": images,
        "pixels": point.size**2,
        "batch": point.batch,
        "model": point.model,
        "milliseconds_per_image": round(
            1000 * statistics.median(answer["seconds"] / answer["images"] for answer in answers), 2
        ),
        "peak_mb": round(answers[-1]["peak_mb"]),
        "start_seconds": round(contender.first_step, 1),
        "hardware": hardware(),
    }


def trained_images(splits: Path, batch: int) -> int:
    """Images of an epoch: the last batch, if not full, is dropped."""
    with splits.open(encoding="utf-8") as handle:
        number = sum(row["split"] == "train" for row in csv.DictReader(handle))
    return number // batch * batch


if __name__ == "__main__":
    main()
