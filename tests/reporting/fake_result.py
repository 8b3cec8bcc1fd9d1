"""A small evaluation result without a network, with class names and paths that try to form markup."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd

from covid_xray.metrics.calibration import Temperature
from covid_xray.metrics.estimates import estimate
from covid_xray.metrics.intervals import Interval
from covid_xray.metrics.predictions import Predictions
from covid_xray.metrics.thresholds import apply_operating_point, choose_operating_point
from covid_xray.probes.saliency import SanityCheck
from covid_xray.probes.shortcuts import Verdict
from covid_xray.probes.source_probe import Probe
from covid_xray.runs.calibration import Calibration
from covid_xray.runs.evaluate import (
    AS_TRAINED,
    CALIBRATED,
    CENTRE_BLACK,
    RANDOM,
    TOP_LOSS,
    EvaluationResult,
    Gallery,
)
from covid_xray.runs.folder import RunFolder
from covid_xray.runs.inference import WHOLE

EVIL = "<script>[l](http://x.y)*e*`c`|www.x.y"
CLASSES = ("covid-19", "normal", EVIL)


def make_predictions(seed: int = 0, missing: bool = False) -> Predictions:
    """Predictions of 8 to 30 images per class, two images per patient; the last class may be missing."""
    random = np.random.default_rng(seed)
    labels = np.r_[np.zeros(8, int), np.ones(30, int), np.full(0 if missing else 30, 2)]
    powers = np.exp(random.normal(size=(len(labels), 3)) + 2 * np.eye(3)[labels])
    images, patients = zip(*((f"{EVIL}/{i}.png", f"p{i // 2}") for i in range(len(labels))), strict=True)
    return Predictions.build(labels, powers / powers.sum(axis=1, keepdims=True), CLASSES, images, patients)


def make_result(path: Path, **changes: Any) -> EvaluationResult:
    """An evaluation of a run in ``path / \"run_1 *x*\"``; changes replace fields."""
    folder = RunFolder(path / "run_1 *x*")
    folder.path.mkdir(exist_ok=True)
    folder.config.write_text("seed: 3\n")
    folder.splits.write_text("path\n")
    predictions, uncalibrated = make_predictions(), make_predictions(1)
    n = len(predictions.labels)
    estimates, raw = estimate(predictions, 50), estimate(uncalibrated, 50)
    point = choose_operating_point(uncalibrated, "covid-19")
    config: dict[str, Any] = {
        "seed": 3,
        "weights": None,
        "split": {"by": "patient", "folds": 5, "fold": 2},
        "model": {"_target_": "a_b.Net", "hidden": [1, 2], "note": "```\n# heading"},
        "schedule": {"phases": {"one": {"epochs": 1}}},
        "augment": {"transforms": []},
    }
    splits = {"path": ["a", "b", "c"], "split": ["train", "test", "test"], "patient_id": ["p", "p", "q"]}
    table = {"path": predictions.images, "source": [EVIL] * n, "sha256": ["00"] * n}
    run = SimpleNamespace(
        folder=folder,
        config=config,
        checkpoint="best",
        checkpoint_sha256="abc",
        checkpoint_text="best.ckpt, SHA-256 abc",
        splits=pd.DataFrame(splits),
        class_names=CLASSES,
        image_size=64,
        precision="32-true",
        device=SimpleNamespace(type="cpu"),
    )
    fields = {
        "run": run,
        "table": pd.DataFrame(table),
        "is_own_data": True,
        "predictions": predictions,
        "uncalibrated": uncalibrated,
        "variants": {AS_TRAINED: raw, CALIBRATED: estimates},
        "calibration": Calibration("abc", 20, Temperature(1.5, 0.9, 0.8), 1.0, "", 0.5, (point,), (f"{EVIL}: few.",)),
        "no_calibration": "",
        "thresholds": tuple(apply_operating_point(point, predictions, prevalence) for prevalence in (0.05, None)),
        "conditions": {WHOLE: raw, CENTRE_BLACK: raw},
        "verdict": Verdict("It uses a shortcut.", "Rule: a rule.", 0.75, True),
        "probes": {"all images": Probe(Interval(0.5, 0.4, 0.6), 0.5, n, "The probe found nothing.")},
        "source_text": "One source.",
        "gallery": Gallery(
            np.zeros((2, 1, 8, 8), np.uint8),
            np.ones((2, 8, 8), np.float32),
            (1, 2),
            (TOP_LOSS, RANDOM),
            SanityCheck((0.1,), 0.1, True, "The maps depend on the weights."),
        ),
        "no_gallery": "",
        "leaks": ("Leak: 1 image.",),
        "seconds": 2.0,
    }
    return EvaluationResult(**{**fields, **changes})
