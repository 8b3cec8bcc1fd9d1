"""Trains with each remedy on phantoms whose source gives the label away, and tests where it does not.

Each run is one file ``outputs/remedies/<run>.npz``; runs that have their file are skipped, so the script can be stopped
and started again. It ends with the tables and the figure.
"""

import argparse
import tempfile
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import NamedTuple

import cv2
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from scipy import stats
from scipy.special import softmax

import covid_xray as cx
from covid_xray.data.augmentation import ResizeWarp
from covid_xray.data.crop import Crop, FrameCrop, MaskCrop, crop_records
from covid_xray.data.images.read import write_png
from covid_xray.data.phantom import CLASSES, PhantomSet, draw_lungs
from covid_xray.data.sampling import Independent
from covid_xray.metrics.comparison import compare
from covid_xray.metrics.estimates import estimate
from covid_xray.metrics.predictions import Predictions
from covid_xray.probes.shortcuts import blacken_centre, shortcut_verdict
from covid_xray.training.adversary import SourceAdversary
from covid_xray.training.losses import GroupDRO
from covid_xray.training.trainer import build_trainer, needed_callbacks

PATIENTS, DRAWN, SIZE, EPOCHS, BATCH, RATE, SHORTCUT = 750, 128, 64, 4, 16, 2e-3, 0.9
SEEDS = (0, 1, 2)
REAL = "real"  # instead of a mark: real X-rays, a fold per seed
METHODS = {
    "plain": "",
    "sampler=independent": "independent",
    "loss=group_dro": "dro",
    "loss=group_dro sampler=independent": "dro independent",
    "adversary=source": "adversary",
    "crop=frame": "frame",
    "crop=mask": "mask",
}


class Cell(NamedTuple):
    """Settings of one training."""

    kind: str
    seed: int
    method: str

    @property
    def name(self) -> str:
        """Name of the file of the run."""
        return f"{self.kind}-seed{self.seed}-{self.method.replace(' ', '-')}"


def cells(kinds: tuple[str, ...]) -> Iterator[Cell]:
    """All runs, seed by seed; those that need masks and those on real X-rays at the end."""
    found = [Cell(kind, seed, method) for kind in kinds for seed in SEEDS for method in METHODS]
    possible = [cell for cell in found if cell.kind != REAL or cell.method in ("plain", "crop=frame")]
    yield from sorted(possible, key=lambda cell: (cell.kind == REAL, cell.method == "crop=mask"))


def read(cell: Cell, root: Path, manifest: Path | None) -> pd.DataFrame:
    """The images of a run with their splits: a fold of real X-rays, or phantoms; these are tested with random marks."""
    if cell.kind == REAL:
        crop = FrameCrop(folder=str(root / "cropped"))
        records = cx.read_manifest(str(manifest))
        records = crop_records(records, crop) if cell.method == "crop=frame" else records
        return cx.assign_splits(records, folds=5, fold=cell.seed)
    phantoms = PhantomSet(PATIENTS, 1, DRAWN, cell.seed, SHORTCUT, cell.kind, 0.0, 1.0)
    records = cx.draw_phantoms(root, **asdict(phantoms))
    parts = METHODS[cell.method].split()
    crop: Crop | None = None
    if "frame" in parts:
        crop = FrameCrop(folder=str(root / "cropped"))
    elif "mask" in parts:
        crop = MaskCrop(folder=str(root / "cropped"))
        masks = root / f"masks-{cell.seed}"
        masks.mkdir(exist_ok=True)
        records["mask"] = [str((masks / f"{patient}.png").absolute()) for patient in records["patient_id"]]
        for patient, file in zip(records["patient_id"], records["mask"], strict=True):
            seed = phantoms.patient_seed(int(patient.rpartition("-")[2]))
            write_png(Path(file), 255 * draw_lungs(seed, 0, DRAWN).astype(np.uint8))
    records = records if crop is None else crop_records(records, crop)
    return cx.assign_splits(records, seed=cell.seed)


def run(cell: Cell, root: Path, manifest: Path | None) -> dict[str, np.ndarray]:
    """Train and give the probabilities of validation and test images; the weights are those after the last epoch."""
    parts = METHODS[cell.method].split()
    schedule = cx.Schedule({"all": cx.Phase(SIZE, BATCH, EPOCHS, "all", RATE)})
    flip = cx.Augmentation([ResizeWarp(warp=0, rotate=0, zoom=1, p=0, flip_p=0.5)])
    sampler = Independent() if "independent" in parts else None
    data = cx.XrayDataModule(read(cell, root, manifest), schedule, flip, seed=cell.seed, num_workers=0, sampler=sampler)
    torch.manual_seed(cell.seed)
    network = cx.create_network("resnet18", data.num_classes)
    loss = GroupDRO(data.group_counts()) if "dro" in parts else None
    adversary = SourceAdversary(network, data.group_counts()) if "adversary" in parts else None  # type: ignore[arg-type]
    module = cx.XrayClassifier(network, schedule, data.class_names, loss=loss, adversary=adversary)
    with tempfile.TemporaryDirectory() as folder:
        callbacks = needed_callbacks((), cell.seed, None)
        trainer = build_trainer({"accelerator": "cpu"}, Path(folder), callbacks, False, EPOCHS)
        trainer.fit(module, datamodule=data)
    module.eval().requires_grad_(False)
    learning = data.subset("train")
    found: dict[str, np.ndarray] = {"groups": pd.crosstab(learning["label"], learning["source"]).to_numpy()}
    for split in ("val", "test"):
        table = data.subset(split)
        images = np.stack([data.dataset(table)._image(row) for row in range(len(table))])
        found[f"{split} logits"] = answer(module, images)
        found[f"{split} centre black logits"] = answer(module, blacken_centre(images))
        found[f"{split} labels"] = np.array([CLASSES.index(label) for label in table["label"]])
        found[f"{split} sources"] = table["source"].to_numpy(str)
        if cell.kind == REAL:  # a phantom has one image, and the phantoms of all seeds have the same names
            found[f"{split} patients"] = table["patient_id"].to_numpy(str)
    return found


def answer(module: cx.XrayClassifier, images: np.ndarray) -> np.ndarray:
    """Logits (n, c) of grey images (n, s, s), uint8."""
    with torch.inference_mode():
        parts = torch.split(torch.from_numpy(images).unsqueeze(1), 64)
        return torch.cat([module(part) for part in parts]).float().numpy()


def predictions(found: list[dict[str, np.ndarray]], split: str, name: str = "logits") -> Predictions:
    """Predictions of one or several runs of other patients."""
    labels = np.concatenate([part[f"{split} labels"] for part in found])
    scores = softmax(np.concatenate([part[f"{split} {name}"] for part in found]).astype(np.float64), axis=1)
    images = [str(number) for number in range(len(labels))]
    given = [name for part in found for name in part.get(f"{split} patients", ())]
    return Predictions.build(labels.tolist(), scores, CLASSES, images, given or images)


def row(cell: Cell, found: dict[str, np.ndarray]) -> dict[str, object]:
    """What was measured of one run."""
    hits = {split: found[f"{split} logits"].argmax(axis=1) == found[f"{split} labels"] for split in ("val", "test")}
    groups = pd.DataFrame({name: found[f"test {name}"] for name in ("labels", "sources")}).assign(hit=hits["test"])
    return {
        "kind": cell.kind,
        "method": cell.method,
        "seed": cell.seed,
        "smallest training group": int(found["groups"].min()),
        "training images": int(found["groups"].sum()),
        "validation accuracy": hits["val"].mean(),
        "test accuracy": hits["test"].mean(),
        "worst group of the test": groups.groupby(["labels", "sources"])["hit"].mean().min(),
    }


def summary(files: dict[Cell, dict[str, np.ndarray]]) -> pd.DataFrame:
    """One row per method: mean over seeds with its t interval, pooled images, and the gain over plain training."""
    rows = []
    for kind, method in dict.fromkeys((cell.kind, cell.method) for cell in files):
        own = {cell.seed: found for cell, found in files.items() if (cell.kind, cell.method) == (kind, method)}
        plain = {seed: files.get(Cell(kind, seed, "plain")) for seed in own}
        runs = pd.DataFrame([row(Cell(kind, seed, method), found) for seed, found in own.items()])
        values: dict[str, object] = {"kind": kind, "method": method, "runs": len(own)}
        for name in ("validation accuracy", "test accuracy", "worst group of the test"):
            values[name] = runs[name].mean()
            half = stats.t.ppf(0.975, len(own) - 1) * runs[name].std() / np.sqrt(len(own)) if len(own) > 1 else np.nan
            values[f"{name}, low"], values[f"{name}, high"] = values[name] - half, values[name] + half
        pooled = predictions(list(own.values()), "test")
        whole = estimate(pooled).intervals
        interval = whole["accuracy"]
        values |= {"pooled images": len(pooled.labels), "pooled low": interval.low, "pooled high": interval.high}
        values["kept without the centre"] = np.nan
        if all("test centre black logits" in found for found in own.values()):
            black = estimate(predictions(list(own.values()), "test", "centre black logits")).intervals
            auroc = whole["macro_auroc"].value, black["macro_auroc"].value
            chance = 1 / len(CLASSES)
            verdict = shortcut_verdict(whole["balanced_accuracy"], black["balanced_accuracy"], chance, *auroc)
            values["kept without the centre"] = verdict.kept
        if all(found is not None for found in plain.values()):
            base = predictions([found for found in plain.values() if found is not None], "test")
            gain = compare(base, pooled).differences["accuracy"]
            values |= {"gain": gain.value, "gain low": gain.low, "gain high": gain.high}
        rows.append(values)
    return pd.DataFrame(rows)


def markdown(table: pd.DataFrame) -> str:
    """The table of the README for one kind."""
    names = ["setting", "seeds", "validation accuracy", "test accuracy (t interval over seeds)"]
    names += ["pooled test images", "gain", "skill kept, centre black"]
    lines = []
    for values in table.to_dict("records"):
        percent = {name: f"{100 * value:.1f}" for name, value in values.items() if isinstance(value, float)}
        seeds = f" ({percent['test accuracy, low']} to {percent['test accuracy, high']})" if values["runs"] > 1 else ""
        gain = f"{100 * values['gain']:+.1f} ({100 * values['gain low']:+.1f} to {100 * values['gain high']:+.1f})"
        gain = "none: the same classes" if np.isnan(values["gain low"]) else gain
        lines.append(
            (
                "plain" if values["method"] == "plain" else f"`{values['method']}`",
                str(values["runs"]),
                f"{percent['validation accuracy']} %",
                f"{percent['test accuracy']} %{seeds}",
                f"{percent['pooled low']} to {percent['pooled high']} %",
                "" if values["method"] == "plain" else gain,
                f"{percent['kept without the centre']} %",
            )
        )
    columns = len(names) - int(table["kept without the centre"].isna().all())
    head, *rest = (f"| {' | '.join(cells[:columns])} |" for cells in (names, *lines))
    return "\n".join((head, "|---" * columns + "|", *rest))


def draw_figure(table: pd.DataFrame, runs: pd.DataFrame, file: Path) -> None:
    """Accuracy of each method in validation, where the source still gives the label away, and in the test."""
    kinds, titles = list(dict.fromkeys(table["kind"])), {REAL: "real X-rays"}
    figure, axes = plt.subplots(1, len(kinds), figsize=(6.8 * len(kinds), 3.6), layout="constrained", squeeze=False)
    for axis, kind in zip(axes[0], kinds, strict=True):
        part = table[table["kind"] == kind].reset_index(drop=True)
        places = np.arange(len(part))
        axis.barh(
            places, 100 * part["test accuracy"], color="C0", alpha=0.6, label="test, source random: mean of seeds"
        )
        errors = 100 * np.abs(part[["pooled low", "pooled high"]].to_numpy().T - part["test accuracy"].to_numpy())
        axis.errorbar(100 * part["test accuracy"], places, xerr=errors, fmt="none", color="black", capsize=3)
        axis.scatter(100 * part["validation accuracy"], places, color="C3", marker="|", s=120, label="validation")
        for place, method in enumerate(part["method"]):
            own = runs[(runs["method"] == method) & (runs["kind"] == kind)]
            axis.scatter(100 * own["test accuracy"], [place] * len(own), color="black", s=9, zorder=3)
        axis.axvline(100 / len(CLASSES), color="grey", linestyle=":")
        axis.set(
            yticks=places,
            yticklabels=part["method"],
            xlim=(0, 100),
            xlabel="accuracy (%)",
            title=titles.get(kind, f"mark: {kind}"),
        )
        axis.invert_yaxis()
    figure.legend(*axes[0][0].get_legend_handles_labels(), fontsize=7, loc="outside lower center", ncols=2)
    figure.savefig(file, dpi=90)


def main() -> None:
    """Run what is not done, and write tables and figure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=Path("outputs/remedies"))
    parser.add_argument("--results", type=Path, default=Path(__file__).parent)
    parser.add_argument("--kinds", nargs="+", default=["frame"], help="marks of the source")
    parser.add_argument("--real", type=Path, help="manifest of real X-rays, to train on them too")
    parser.add_argument("--most", type=int, default=10**6, help="end after so many new runs")
    options = parser.parse_args()
    cv2.setNumThreads(1)
    options.output.mkdir(parents=True, exist_ok=True)
    files: dict[Cell, dict[str, np.ndarray]] = {}
    new = 0
    for cell in cells((*options.kinds, REAL) if options.real else tuple(options.kinds)):
        file = options.output / f"{cell.name}.npz"
        if not file.is_file():
            if new == options.most:
                break
            new += 1
            found = run(cell, options.output / "phantoms", options.real)
            part = file.with_suffix(".part.npz")
            np.savez_compressed(part, **found)
            part.replace(file)
            print(row(cell, found), flush=True)
        files[cell] = dict(np.load(file))
    runs = pd.DataFrame([row(cell, found) for cell, found in files.items()])
    table = summary(files)
    runs.round(4).to_csv(options.results / "runs.csv", index=False)
    table.round(4).to_csv(options.results / "results.csv", index=False)
    draw_figure(table, runs, options.results / "accuracy.png")
    for _, part in table.groupby("kind"):
        print(markdown(part), end="\n\n")


if __name__ == "__main__":
    main()
