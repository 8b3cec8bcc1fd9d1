"""Trains on phantoms with a known shortcut, and stores what the shortcut battery sees of every network.

Each run is one file ``outputs/verdict/<run>.npz``; runs that have their file are skipped, so the script can be stopped
and started again. `score.py` reads the files.
"""

import argparse
import itertools
import tempfile
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import pandas as pd
import torch

import covid_xray as cx
from covid_xray.data.augmentation import ResizeWarp
from covid_xray.data.images.read import read_image
from covid_xray.data.images.resize import resize
from covid_xray.data.phantom import PhantomSet, draw_lungs
from covid_xray.probes.saliency import grad_cam
from covid_xray.probes.shortcuts import blacken_centre, exchange_centre, fill_centre, keep_centre, remove_border
from covid_xray.training.trainer import build_trainer, needed_callbacks

DIALS = (0.0, 0.25, 0.5, 0.75, 1.0)
INSIDE = ("exposure", "resolution", "aspect")  # marks that are in the lungs too
PATIENTS, SIZE, EPOCHS, BATCH, RATE, MASK = 450, 64, 5, 16, 2e-3, 0.75


class Cell(NamedTuple):
    """Settings of one training; ``shortcut`` None: no marks."""

    kind: str
    shortcut: float | None
    disease: float
    seed: int
    borders: bool = False  # trained without the centre

    @property
    def name(self) -> str:
        """Name of the file of the run."""
        name = f"{self.kind}-shortcut{self.shortcut}-disease{self.disease}-seed{self.seed}"
        return name + "-borders" * self.borders

    @property
    def phantoms(self) -> PhantomSet:
        """The phantoms of the run."""
        kind = "marker" if self.kind == "none" else self.kind
        return PhantomSet(PATIENTS, 1, SIZE, self.seed, self.shortcut, kind, None, self.disease)


def grid(shortcuts: tuple[float | None, ...], diseases: tuple[float, ...], seed: int) -> Iterator[Cell]:
    """Runs with marks outside the lungs: both kinds in every place of the grid, each with another seed."""
    for shortcut, disease in itertools.product(shortcuts, diseases):
        if shortcut is None:
            yield Cell("none", None, disease, seed)
        else:
            number = DIALS.index(shortcut) + DIALS.index(disease) + seed
            yield Cell(("marker", "frame")[number % 2], shortcut, disease, seed)


def cells() -> Iterator[Cell]:
    """All runs; at the end those of the grid that are trained on borders."""
    found = [cell for seed in (0, 1) for cell in grid((*DIALS, None), DIALS, seed)]
    # Networks with skill and with at most a weak shortcut: the specificity is counted on them.
    found += [cell for seed in (2, 3) for cell in grid((0.0, 0.25, None), (0.5, 0.75, 1.0), seed)]
    inside = itertools.product(INSIDE, (0.0, 0.5, 1.0), (0.5, 1.0), (0, 1))
    found += [Cell(kind, shortcut, disease, seed) for kind, shortcut, disease, seed in inside]
    yield from found
    yield from (cell._replace(borders=True) for cell in found if cell.kind in ("marker", "frame") and cell.seed < 2)


def train(records: pd.DataFrame, cell: Cell) -> cx.XrayClassifier:
    """A ResNet-18 from random weights after one phase; without checkpoints, which would take a fifth of the time."""
    schedule = cx.Schedule({"all": cx.Phase(SIZE, BATCH, EPOCHS, "all", RATE)})
    flip = cx.Augmentation([ResizeWarp(warp=0, rotate=0, zoom=1, p=0, flip_p=0.5)])
    data = cx.XrayDataModule(records, schedule, flip, seed=cell.seed, num_workers=0)
    torch.manual_seed(cell.seed)
    network = cx.create_network("resnet18", data.num_classes)
    module = cx.XrayClassifier(network, schedule, data.class_names, mask_centre=MASK if cell.borders else None)
    with tempfile.TemporaryDirectory() as folder:
        callbacks = needed_callbacks((), cell.seed, None)
        trainer = build_trainer({"accelerator": "cpu"}, Path(folder), callbacks, False, EPOCHS)
        trainer.fit(module, datamodule=data)
    return module.eval().requires_grad_(False)


def answer(module: cx.XrayClassifier, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Logits (n, c) and features (n, d) of grey images (n, s, s), float32."""
    pixels = module.normalise(torch.from_numpy(images).unsqueeze(1))
    with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16):
        maps = torch.cat([module.network.features(part) for part in torch.split(pixels, 64)])
        return module.network.head(maps).float().numpy(), maps.float().mean(dim=(2, 3)).numpy()


def measure(cell: Cell, root: Path) -> dict[str, np.ndarray]:
    """Train the network of a cell, and give logits, features and saliency of its test images."""
    phantoms = cell.phantoms
    records = cx.assign_splits(cx.draw_phantoms(root, **asdict(phantoms)), test_share=1 / 3)
    table = records[records["split"] == "test"].sort_values("path")
    patients = [int(patient.rpartition("-")[2]) for patient in table["patient_id"]]
    module = train(records, cell)
    images = np.stack([resize(read_image(file), SIZE) for file in table["file"]])
    labels = np.array([module.class_names.index(label) for label in table["label"]])
    whole, features = answer(module, images)
    if cell.borders:
        return {"trained on borders": whole, "labels": labels}
    donors = np.random.default_rng(cell.seed).permutation(len(images))
    changed = {
        "centre black": blacken_centre(images),
        "centre mean": fill_centre(images, "mean"),
        "centre noise": fill_centre(images, "noise"),
        "centre blurred": fill_centre(images, "blur"),
        "centre exchanged": exchange_centre(images, images[donors]),
        "centre only": keep_centre(images),
        "border removed": np.stack([resize(image, SIZE) for image in remove_border(images)]),
    }
    if cell.shortcut is not None:  # the truth: the same chests with the mark of a random source, and without a mark
        for name, shortcut in (("mark random", 0.0), ("mark removed", None)):
            other = cell._replace(shortcut=shortcut).phantoms
            changed[name] = np.stack([resize(other.draw(patient, 0), SIZE) for patient in patients])
    predicted = torch.from_numpy(whole.argmax(axis=1))
    maps = grad_cam(module.network, module.normalise(torch.from_numpy(images).unsqueeze(1)), predicted).numpy()
    lungs = np.stack([draw_lungs(phantoms.patient_seed(patient), 0, SIZE) for patient in patients])
    with np.errstate(invalid="ignore"):
        share = (maps * lungs).sum(axis=(1, 2)) / maps.sum(axis=(1, 2))  # nan for an empty map
    logits = {"whole image": whole} | {name: answer(module, pixels)[0] for name, pixels in changed.items()}
    sources = table["source"].to_numpy(str)
    return logits | {
        "labels": labels,
        "donors": donors,
        "sources": sources,
        "lung share": share,
        "features": features,
    }


def main() -> None:
    """Run the cells that are not done."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=Path("outputs/verdict"))
    parser.add_argument("--seed", type=int, default=None, help="train only runs of this seed; default: all")
    options = parser.parse_args()
    cv2.setNumThreads(1)
    options.output.mkdir(parents=True, exist_ok=True)
    for cell in cells():
        file = options.output / f"{cell.name}.npz"
        if file.is_file() or options.seed not in (None, cell.seed):
            continue
        found = measure(cell, options.output / "phantoms")
        part = file.with_suffix(".part.npz")
        np.savez_compressed(part, **found)
        part.replace(file)
        right = {
            name: (found[name].argmax(axis=1) == found["labels"]).mean()
            for name in found
            if found[name].ndim == 2 and name != "features"
        }
        print(cell.name, {name: round(float(value), 2) for name, value in right.items()}, flush=True)


if __name__ == "__main__":
    main()
