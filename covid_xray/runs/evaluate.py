"""Everything that an evaluation finds out about a run on one set of images, before any of it is drawn or written."""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from omegaconf import DictConfig, OmegaConf

from covid_xray.commands.build import make
from covid_xray.data.augmentation import Augmentation, resize
from covid_xray.errors import UserError
from covid_xray.metrics.calibration import apply_temperature
from covid_xray.metrics.estimates import Estimates, estimate
from covid_xray.metrics.predictions import Predictions
from covid_xray.metrics.thresholds import OperatingResult, apply_operating_point
from covid_xray.probes.saliency import SanityCheck, grad_cam, randomised_weights_check
from covid_xray.probes.shortcuts import Verdict, blacken_centre, keep_centre, remove_border, shortcut_verdict
from covid_xray.probes.source_probe import Probe, label_from_source, probe_source, probe_within_classes
from covid_xray.runs import inference
from covid_xray.runs.calibration import Calibration, calibration_of
from covid_xray.runs.images import (
    content_hashes,
    external_images,
    leak_warnings,
    marked_leaks,
    own_images,
    read_records,
)
from covid_xray.runs.load import Run

if TYPE_CHECKING:
    import pandas as pd

CENTRE_BLACK, CENTRE_ONLY, NO_BORDER = "centre blacked out", "centre only", "border removed"
AS_TRAINED, CALIBRATED = "as trained", "calibrated"
MOST_PROBED = 4000
_PER_KIND, _PER_CLASS = 4, 2


@dataclass(frozen=True, eq=False)
class Gallery:
    """Some test images with the maps of what spoke for the predicted class.

    Attributes:
        images: Grey images (n, 1, s, s), uint8.
        maps: Maps (n, s, s) in [0, 1].
        titles: Words above each.
        check: Whether the maps depend on the weights.
    """

    images: npt.NDArray[np.uint8]
    maps: npt.NDArray[np.float32]
    titles: tuple[str, ...]
    check: SanityCheck


@dataclass(frozen=True, eq=False)
class EvaluationResult:
    """What was found; see `evaluate_run`.

    Attributes:
        run: The trained run.
        table: The test images: path, file, label, patient_id, source, sha256.
        own: Whether they are the run's own.
        predictions: What the model said, calibrated where possible.
        raw: What it said as trained.
        variants: All figures of merit as trained, calibrated, and with test-time augmentation.
        calibration: What validation taught, or None.
        no_calibration: Why there is none.
        thresholds: Operating points, chosen on validation, on these images.
        conditions: Figures of merit on whole and on masked images.
        verdict: What follows from them.
        probes: Linear probes of the source: among all images, and within each class.
        source_text: How label and source hang together.
        gallery: Grad-CAM, or None.
        no_gallery: Why there is none.
        leaks: What the test images share with those trained on.
        seconds: How long it took.
    """

    run: Run
    table: "pd.DataFrame"
    own: bool
    predictions: Predictions
    raw: Predictions
    variants: Mapping[str, Estimates]
    calibration: Calibration | None
    no_calibration: str
    thresholds: tuple[OperatingResult, ...]
    conditions: Mapping[str, Estimates]
    verdict: Verdict
    probes: Mapping[str, Probe]
    source_text: str
    gallery: Gallery | None
    no_gallery: str
    leaks: tuple[str, ...]
    seconds: float

    @property
    def estimates(self) -> Estimates:
        """Figures of merit of the predictions that are written down."""
        return self.variants.get(CALIBRATED) or self.variants[AS_TRAINED]


def evaluate_run(cfg: DictConfig, run: Run) -> EvaluationResult:
    """Run the network over the images and compute everything.

    Args:
        cfg: Configuration of the command ``evaluate``.
        run: The trained run.
    """
    start = time.perf_counter()
    if unknown := [name for name in cfg.prevalence or {} if name not in run.class_names]:
        raise UserError(f"prevalence: {unknown[0]!r} is no class; use {', '.join(run.class_names)}")
    table, records, own = find_images(cfg, run)
    table = table.assign(sha256=content_hashes(list(table["file"])))
    known = OmegaConf.select(run.cfg, "data.audit_cache")
    leaks = (marked_leaks(run.folder.metrics) if own else ()) + leak_warnings(
        table, run.splits, records, own, Path(known) if known else None
    )
    calibration, no_calibration = calibration_of(run, records, cfg.num_workers)
    probed = _probed_rows(table, cfg.seed)
    masks = {CENTRE_BLACK: blacken_centre, CENTRE_ONLY: keep_centre, NO_BORDER: _without_border}
    outputs = inference.infer(run, list(table["file"]), masks, probed, cfg.num_workers, "Test images")
    raw = _predictions(run, table, outputs.logits[inference.WHOLE], 1.0)
    predictions = raw
    if calibration is not None:
        value = calibration.temperature.value
        predictions = raw.with_probabilities(apply_temperature(outputs.logits[inference.WHOLE], value))
    variants = {AS_TRAINED: raw} | ({CALIBRATED: predictions} if calibration is not None else {})
    variants |= _augmented(cfg, run, table, raw) if cfg.tta else {}
    estimates = {name: estimate(part, cfg.resamples, cfg.seed) for name, part in variants.items()}
    conditions = {inference.WHOLE: estimates[AS_TRAINED]} | {
        name: estimate(_predictions(run, table, outputs.logits[name], 1.0), cfg.resamples, cfg.seed) for name in masks
    }
    gallery, no_gallery = _gallery(cfg, run, table, predictions)
    probes, source_text = _probes(table.iloc[probed], outputs.features, cfg.seed)
    return EvaluationResult(
        run,
        table,
        own,
        predictions,
        raw,
        estimates,
        calibration,
        no_calibration,
        _thresholds(cfg, predictions, calibration),
        conditions,
        _verdict(conditions),
        probes,
        source_text,
        gallery,
        no_gallery,
        leaks,
        time.perf_counter() - start,
    )


def find_images(cfg: DictConfig, run: Run) -> tuple["pd.DataFrame", "pd.DataFrame | None", bool]:
    """The images to test on, the run's own data if it is here, and whether the former are of the latter.

    Another data set that holds exactly the run's images is taken for the run's own, which has moved.
    """
    if cfg.get("data") is None:
        records = read_records(run.cfg.data)
        return own_images(run.splits, records, cfg.split), records, True
    given = read_records(cfg.data)
    if set(given["path"]) == set(run.splits["path"]):
        return own_images(run.splits, given, cfg.split), given, True
    class_map = OmegaConf.to_container(cfg.class_map) if cfg.class_map else None
    table = external_images(given, run.class_names, class_map)  # type: ignore[arg-type]
    try:
        records = read_records(run.cfg.data)
    except UserError:
        return table, None, False
    return table, records, False


def _predictions(run: Run, table: "pd.DataFrame", logits: Any, temperature: float) -> Predictions:
    numbers = {name: number for number, name in enumerate(run.class_names)}
    labels = [numbers[label] for label in table["label"]]
    probabilities = apply_temperature(logits, temperature)
    return Predictions.build(labels, probabilities, run.class_names, list(table["path"]), list(table["patient_id"]))


def _without_border(images: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    return np.stack([resize(image, images.shape[1]) for image in remove_border(images)])


def _augmented(cfg: DictConfig, run: Run, table: "pd.DataFrame", raw: Predictions) -> dict[str, Predictions]:
    settings = OmegaConf.to_container(run.cfg.augment, resolve=True)
    assert isinstance(settings, dict)
    for transform in settings.get("transforms", []):
        # The eight views zoom and mirror themselves, as in fastai.
        transform |= {key: value for key, value in {"zoom": 1.0, "flip_p": 0.0}.items() if key in transform}
    augment: Augmentation = make(OmegaConf.create({"augment": settings}), "augment")
    views = inference.infer_augmented(run, list(table["file"]), augment, cfg.seed, cfg.num_workers)
    beta, passes = inference.TTA_BETA, inference.TTA_PASSES
    mixed = beta * raw.probabilities + (1 - beta) * views
    mean = (raw.probabilities + passes * views) / (passes + 1)
    return {
        "TTA, fastai's rule": raw.with_probabilities(mixed),
        "TTA, plain mean": raw.with_probabilities(mean),
    }


def _thresholds(
    cfg: DictConfig, predictions: Predictions, calibration: Calibration | None
) -> tuple[OperatingResult, ...]:
    prevalence = cfg.prevalence or {}
    points = calibration.points if calibration is not None else ()
    return tuple(apply_operating_point(point, predictions, prevalence.get(point.class_name)) for point in points)


def _verdict(conditions: Mapping[str, Estimates]) -> Verdict:
    whole, black = (conditions[name].intervals for name in (inference.WHOLE, CENTRE_BLACK))
    occurring = sum(count > 0 for count in conditions[inference.WHOLE].cases.values())
    return shortcut_verdict(
        whole["balanced_accuracy"],
        black["balanced_accuracy"],
        1 / occurring,
        whole["macro_auroc"].value,
        black["macro_auroc"].value,
    )


def _probed_rows(table: "pd.DataFrame", seed: int) -> list[int]:
    """Rows of the images that the source probe uses: all, or a random part of very many."""
    rows = np.arange(len(table))
    if len(rows) > MOST_PROBED:
        rows = np.sort(np.random.default_rng(seed).choice(rows, MOST_PROBED, replace=False))
    return [int(row) for row in rows]


def _probes(table: "pd.DataFrame", features: Any, seed: int) -> tuple[dict[str, Probe], str]:
    labels, sources = list(table["label"]), list(table["source"])
    if not any(sources):
        return {}, "The data set names no sources, so nothing can be said about them."
    sources = [source or "not stated" for source in sources]
    text = label_from_source(labels, sources)[1]
    if features is None:
        return {}, text + " No probe: the network has no single feature map."
    patients = list(table["patient_id"])
    probes = {"all images": probe_source(features, sources, patients, seed=seed)}
    return probes | probe_within_classes(features, labels, sources, patients, seed=seed), text


def _gallery(cfg: DictConfig, run: Run, table: "pd.DataFrame", predictions: Predictions) -> tuple[Gallery | None, str]:
    if not cfg.saliency:
        return None, "Left out (saliency=false)."
    rows = _shown_rows(predictions, cfg.seed)
    images = inference.plain_images(run, [table["file"].iloc[row] for row, _ in rows]).to(run.device)
    import torch

    classes = torch.tensor([int(predictions.predicted[row]) for row, _ in rows], device=run.device)
    pixels = run.module.normalise(images)
    try:
        maps = torch.cat(
            [grad_cam(run.module.network, pixels[i : i + 1], classes[i : i + 1]) for i in range(len(rows))]
        )
        check = randomised_weights_check(run.module.network, pixels[:8], classes[:8], cfg.seed)
    except UserError as error:
        return None, f"{error}."
    names = predictions.class_names
    titles = tuple(
        f"{kind}: {names[predictions.labels[row]]}\nsaid {names[predictions.predicted[row]]}, "
        f"{100 * predictions.probabilities[row].max():.0f} %"
        for row, kind in rows
    )
    return Gallery(images.cpu().numpy(), maps.cpu().numpy(), titles, check), ""


def _shown_rows(predictions: Predictions, seed: int) -> list[tuple[int, str]]:
    """Rows to draw maps for, with the reason: surest errors, least sure hits, a random sample of every class."""
    sure = predictions.probabilities.max(axis=1)
    right = predictions.predicted == predictions.labels
    order = np.argsort(-sure, kind="stable")
    rows = [(int(row), "error") for row in order[~right[order]][:_PER_KIND]]
    rows += [(int(row), "unsure hit") for row in order[::-1][right[order[::-1]]][:_PER_KIND]]
    random = np.random.default_rng(seed)
    for k in range(len(predictions.class_names)):
        own = np.flatnonzero(predictions.labels == k)
        drawn = random.choice(own, min(_PER_CLASS, len(own)), replace=False)
        rows += [(int(row), "random") for row in drawn]
    return rows
