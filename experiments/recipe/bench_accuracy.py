"""Draws accuracy on unseen patients over processor time: fastai's `fine_tune`, the article's recipe, and ours.

``make bench-accuracy MANIFEST=... WEIGHTS=...`` runs it, and continues after an interruption. All train on the same
machine, one after the other, on the images of the same fold, with loaders in the process that trains; the minutes are
processor time, without that of testing. Writes curves.csv and accuracy.png beside this file.
"""

import argparse
import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from covid_xray.files import write_atomically
from covid_xray.plots.classification import COLOURS, figure_png
from covid_xray.runs.provenance import hardware

HERE = Path(__file__).parent
OURS, ARTICLE, FASTAI = "experiment=recommended", "the article's recipe, 224 pixels", "fastai 2, fine_tune"
# The corrected recipe is the article's; its phases at 448 pixels take half an hour on two cores.
ARTICLE_SETTINGS = [
    "experiment=corrected",
    "~schedule.phases.frozen_large",
    "~schedule.phases.unfrozen_large",
    "schedule.phases.frozen_small.batch_size=16",
    "schedule.phases.unfrozen_small.batch_size=16",
]


def main() -> None:
    """Train all three, then draw."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--manifest", type=Path, required=True)
    parser.add_argument("--weights", type=Path, required=True, help="a ResNet-50 with ImageNet weights")
    parser.add_argument("--fastai", type=Path, required=True, help="Python of fastai's environment")
    parser.add_argument("--fold", type=int, default=0)
    parser.add_argument("--epochs", type=int, default=10, help="epochs of fine_tune after its frozen one")
    parser.add_argument("--output", type=Path, default=Path("outputs/bench_accuracy"))
    args = parser.parse_args()
    shared = [
        "data=manifest",
        f"data.manifest={args.manifest}",
        f"weights={args.weights}",
        "split=folds",
        f"split.fold={args.fold}",
        "datamodule.num_workers=0",
    ]
    for name, settings in {"recommended": ["experiment=recommended"], "article": ARTICLE_SETTINGS}.items():
        folder = args.output / name
        folder.mkdir(parents=True, exist_ok=True)
        curve = ["+callbacks.curve._target_=accuracy_curve.AccuracyCurve", f"+callbacks.curve.file={folder}/curve.csv"]
        run = [sys.executable, "-m", "covid_xray", "train", *settings, *shared, *curve, f"run_dir={folder}/run"]
        path = os.pathsep.join([str(HERE), *filter(None, [os.environ.get("PYTHONPATH")])])
        subprocess.run(run, check=True, env={**os.environ, "PYTHONPATH": path})
    fastai = [args.fastai, HERE / "fastai_side.py", args.output / "article/run/splits.csv", args.manifest.parent]
    if not (args.output / "fastai/predictions.csv").is_file():
        subprocess.run([*fastai, args.weights, str(args.epochs), args.output / "fastai"], check=True)
    curves = [
        pd.read_csv(args.output / folder / "curve.csv").assign(contender=contender)
        for folder, contender in (("recommended", OURS), ("article", ARTICLE), ("fastai", FASTAI))
    ]
    table = pd.concat(curves)[["contender", "epoch", "minutes", "val_loss", "accuracy"]]
    write_atomically(HERE / "curves.csv", table.to_csv(index=False, float_format="%.4f"))
    draw(table)


def draw(table: pd.DataFrame) -> None:
    """Draw the accuracy of the epoch with the lowest validation loss so far: what a user who stops there gets."""
    figure = Figure(figsize=(7, 3.4), layout="constrained")
    axis = figure.subplots()
    for colour, (name, rows) in zip(COLOURS, table.groupby("contender", sort=False), strict=False):
        lowest = rows["val_loss"].cummin().eq(rows["val_loss"])
        kept = rows["accuracy"].where(lowest).ffill()
        axis.step(rows["minutes"], 100 * kept, where="post", color=colour, label=name)
        axis.plot(rows["minutes"], 100 * rows["accuracy"], ".", color=colour, alpha=0.4)
    axis.set_xlabel(f"minutes of processor time ({hardware('cpu')})")
    axis.set_ylabel("accuracy on unseen patients (%)")
    axis.legend(frameon=False)
    axis.spines[["top", "right"]].set_visible(False)
    write_atomically(HERE / "accuracy.png", figure_png(figure))


if __name__ == "__main__":
    main()
