"""Train fastai 2's `fine_tune` on the splits of one of our runs, in fastai's own environment.

``python fastai_side.py SPLITS ROOT WEIGHTS EPOCHS OUTPUT``: the images of ``splits.csv`` below ``ROOT``; the ResNet-50
body of the file ``WEIGHTS``; fastai's documented recipe at 224 pixels. Writes ``curve.csv`` (accuracy on the test
images after every epoch, over the minutes of processor time, without testing) and ``predictions.csv`` (of the
epoch with the lowest validation loss, in the format of ``covid-xray evaluate``).
"""

import csv
import math
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from fastai.vision.all import (
    Callback,
    CategoryBlock,
    ColReader,
    DataBlock,
    ImageBlock,
    IndexSplitter,
    Normalize,
    Resize,
    ResizeMethod,
    accuracy,
    aug_transforms,
    imagenet_stats,
    resnet50,
    set_seed,
    vision_learner,
)

warnings.filterwarnings("ignore")


class Curve(Callback):
    """Tests the network after every epoch, and keeps the predictions of the epoch with the lowest validation loss."""

    order = 100

    def __init__(self, table: pd.DataFrame, root: Path, output: Path) -> None:
        self.table, self.root, self.output = table, root, output
        self.start, self.testing, self.lowest, self.rows = time.process_time(), 0.0, math.inf, []
        self.best = table

    def after_epoch(self) -> None:
        """Add a row to ``curve.csv``."""
        now = time.process_time()
        minutes = (now - self.start - self.testing) / 60
        loader = self.learn.dls.test_dl([self.root / path for path in self.table["path"]])
        self.model.eval()
        with torch.no_grad():
            probabilities = torch.cat([self.model(images).softmax(1) for (images,) in loader]).double().numpy()
        names = list(self.learn.dls.vocab)
        predicted = np.array(names)[probabilities.argmax(1)]
        value = float((predicted == self.table["label"].to_numpy()).mean())
        loss = self.learn.recorder.values[-1][1]
        self.rows.append({"epoch": len(self.rows) + 1, "minutes": minutes, "val_loss": loss, "accuracy": value})
        with (self.output / "curve.csv").open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, self.rows[0])
            writer.writeheader()
            writer.writerows(self.rows)
        if loss < self.lowest:
            self.lowest = loss
            found = self.table[["path", "label"]].assign(patient=self.table["patient_id"], prediction=predicted)
            for index, name in enumerate(names):
                found[f"p_{name}"] = probabilities[:, index]
            self.best = found
        print(f"epoch {len(self.rows)}: {minutes:.1f} min, val loss {loss:.3f}, test accuracy {value:.3f}", flush=True)
        self.testing += time.process_time() - now


def main() -> None:
    """Train and test."""
    splits, root, weights, epochs, output = sys.argv[1:]
    table = pd.read_csv(splits, dtype=str)
    output_folder = Path(output)
    output_folder.mkdir(parents=True, exist_ok=True)
    set_seed(0)
    known = table[table["split"] != "test"].reset_index(drop=True)
    block = DataBlock(
        blocks=(ImageBlock, CategoryBlock),
        get_x=ColReader("path", pref=f"{root}/"),
        get_y=ColReader("label"),
        splitter=IndexSplitter(known.index[known["split"] == "val"]),
        item_tfms=Resize(224, ResizeMethod.Squish),
        batch_tfms=[*aug_transforms(), Normalize.from_stats(*imagenet_stats, cuda=torch.cuda.is_available())],
    )
    learn = vision_learner(block.dataloaders(known, bs=16, num_workers=0), resnet50, pretrained=False, metrics=accuracy)
    body = torch.load(weights, map_location="cpu", weights_only=True)
    # fastai's body is the sequence of torchvision's stages, without its pooling and classifier.
    stages = {"conv1": "0", "bn1": "1", "layer1": "4", "layer2": "5", "layer3": "6", "layer4": "7"}
    renamed = {stages[name.split(".")[0]] + name[name.index(".") :]: value for name, value in body.items()}
    learn.model[0].load_state_dict(renamed)
    learn.freeze()
    test = table[table["split"] == "test"].reset_index(drop=True)
    with learn.no_bar(), learn.no_logging():
        curve = Curve(test, Path(root), output_folder)
        learn.fine_tune(int(epochs), cbs=[curve])
    curve.best.to_csv(output_folder / "predictions.csv", index=False, float_format="%.17g")


if __name__ == "__main__":
    main()
