"""Evaluate a trained run on one set of images: metrics, calibration, shortcut tests, saliency."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from matplotlib.figure import Figure

from covid_xray.data.images.resize import resize
from covid_xray.errors import UserError
from covid_xray.metrics.bootstrap import RESAMPLES
from covid_xray.metrics.calibration import apply_shares, apply_temperature, image_nll
from covid_xray.metrics.estimates import Estimates, estimate
from covid_xray.metrics.groups import GroupMetrics, group_metrics
from covid_xray.metrics.intervals import Interval
from covid_xray.metrics.predictions import Predictions
from covid_xray.metrics.thresholds import OperatingResult, apply_operating_point
from covid_xray.plots.images import batch_figure
from covid_xray.probes.saliency import SanityCheck, grad_cam, randomised_weights_check
from covid_xray.probes.shortcuts import Verdict, blacken_centre, keep_centre, remove_border, shortcut_verdict
from covid_xray.probes.source_probe import Probe, label_from_source, probe_source, probe_within_classes
from covid_xray.runs import inference
from covid_xray.runs.calibration import Calibration, calibrate
from covid_xray.runs.config import select
from covid_xray.runs.external import ExternalTest, Recalibrated, drops, few_patients, recalibrated
from covid_xray.runs.images import (
    class_shares,
    content_hashes,
    crop_as_trained,
    external_images,
    is_own,
    leak_warnings,
    marked_leaks,
    own_images,
    own_records,
    trained_shares,
)
from covid_xray.runs.load import Run, load_run, tta_augmentation
from covid_xray.runs.sources import SourceOnly, source_only

CENTRE_BLACK, CENTRE_ONLY, NO_BORDER = "centre blacked out", "centre only", "border removed"
AS_TRAINED, CALIBRATED, EQUAL_SHARES = "as trained", "calibrated", "equal class shares"
MAX_PROBED = 4000
TOP_LOSS, UNSURE_HIT, RANDOM = "top loss", "unsure hit", "random"
_TOP_LOSSES, _UNSURE_HITS, _PER_CLASS = 8, 4, 2


@dataclass(frozen=True, eq=False)
class Gallery:
    """Some test images with the saliency maps of the predicted class.

    Attributes:
        images: Grey images (n, 1, s, s), uint8.
        maps: Maps (n, s, s) in [0, 1].
        rows: Row of each image in the predictions.
        kinds: Why each image is shown: `TOP_LOSS`, `UNSURE_HIT` or `RANDOM`.
        check: Whether the maps depend on the weights.
    """

    images: npt.NDArray[np.uint8]
    maps: npt.NDArray[np.float32]
    rows: tuple[int, ...]
    kinds: tuple[str, ...]
    check: SanityCheck


@dataclass(frozen=True, eq=False)
class EvaluationResult:
    """Result of `evaluate_run`.

    Attributes:
        run: The trained run.
        table: The test images: path, file, label, patient_id, source, sha256.
        is_own_data: Whether they are the run's own.
        predictions: The predictions, calibrated where possible.
        uncalibrated: The predictions as trained.
        variants: All metrics as trained, calibrated, for equal class shares, and with test-time augmentation.
        calibration: What the validation images gave, or None.
        no_calibration: Why there is no calibration.
        thresholds: Operating points, chosen on validation, on these images.
        conditions: Metrics on whole and on masked images.
        verdict: What follows from them.
        probes: Linear probes of the source: among all images, and within each class.
        source_text: How label and source are associated.
        gallery: Saliency maps, or None.
        no_gallery: Why there are none.
        leaks: One sentence for each leak between training and test.
        seconds: Duration of the evaluation.
        request: The arguments that the numbers depend on.
        source_only: A classifier that sees only the source; None if the images name no sources.
        groups: Metrics by source, and by class within a source; None if the images name no sources.
        external: Comparison of another data set with the run's own test images; None for the run's own data.
    """

    run: Run
    table: pd.DataFrame
    is_own_data: bool
    predictions: Predictions
    uncalibrated: Predictions
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
    request: Mapping[str, Any] = field(default_factory=dict)
    source_only: SourceOnly | None = None
    groups: GroupMetrics | None = None
    external: ExternalTest | None = None

    @property
    def estimates(self) -> Estimates:
        """Metrics of `predictions`."""
        return self.variants.get(CALIBRATED) or self.variants[AS_TRAINED]

    @property
    def metrics(self) -> Mapping[str, Interval]:
        """Value and 95 % interval by name, such as ``macro_auroc`` or ``sensitivity/covid-19``."""
        return self.estimates.intervals


def evaluate_run(
    run: Run | str | Path,
    records: pd.DataFrame | None = None,
    *,
    subset: str = "test",
    class_map: Mapping[str, str | None] | None = None,
    prevalence: Mapping[str, float] | None = None,
    tta: bool = False,
    saliency: bool = True,
    resamples: int = RESAMPLES,
    seed: int = 0,
    threads: int | None = None,
    recalibrate: int | None = None,
) -> EvaluationResult:
    """Evaluate a run on its own images or on other records.

    Args:
        run: The trained run, or its folder.
        records: Another data set, as an external test. A table with exactly the run's paths is the run's own data at
            another place. None: the run's own data.
        subset: Which of the run's own images: ``test``, ``val`` or ``train``.
        class_map: New name by name of a class in ``records``; None leaves a class out.
        prevalence: Share of a class in the population that PPV and NPV are for. For another data set, its default is
            the share in the run's own test images.
        tta: Whether to evaluate test-time augmentation too.
        saliency: Whether to compute Grad-CAM maps.
        resamples: Resamples of the bootstrap.
        seed: Seed of the bootstrap, the random samples and the augmented views.
        threads: Threads that read images; None for the number of cores, at most 8.
        recalibrate: Number of images of another data set to recalibrate on; whole patients, who leave the test.

    Raises:
        UserError: If the images or classes do not fit the run.
    """
    start = time.perf_counter()
    request = {
        "subset": subset,
        "class_map": dict(class_map or {}),
        "prevalence": dict(prevalence or {}),
        "tta": tta,
        "saliency": saliency,
        "resamples": resamples,
        "seed": seed,
        "recalibrate": recalibrate if recalibrate is not None else {},
    }
    run = run if isinstance(run, Run) else load_run(run)
    if run.folded:
        request["fold_batchnorm"] = True
    prevalence = prevalence or {}
    if unknown := [name for name in prevalence if name not in run.class_names]:
        raise UserError(f"prevalence: {unknown[0]!r} is no class; use {', '.join(run.class_names)}")
    table, own, is_own_data = _find_images(run, records, subset, class_map)
    few = table.iloc[:0]
    if not is_own_data:
        prevalence = class_shares(run, "test") | dict(prevalence)
    if recalibrate is not None:
        if is_own_data:
            raise UserError(
                "recalibrate is for another data set (data=...); the run's own images are calibrated already"
            )
        drawn = few_patients(table, recalibrate, seed)
        few, table = table[drawn].reset_index(drop=True), table[~drawn].reset_index(drop=True)
    table = table.assign(sha256=content_hashes(list(table["file"])))
    known = run.writable(select(run.config, "datamodule.audit_cache"))
    leaks = (marked_leaks(run) if is_own_data else ()) + leak_warnings(table, run.splits, own, is_own_data, known)
    calibration, no_calibration = calibrate(run, own, threads)
    probed = _probed_rows(table, seed)
    masks = {CENTRE_BLACK: blacken_centre, CENTRE_ONLY: keep_centre, NO_BORDER: _without_border}
    outputs = inference.infer(run, list(table["file"]), masks, probed, threads, "Test images")
    raw = _predictions(run, table, outputs.logits[inference.WHOLE])
    predictions, variants = raw, {AS_TRAINED: raw}
    if calibration is not None:
        value = calibration.temperature.value
        predictions = raw.with_probabilities(apply_temperature(outputs.logits[inference.WHOLE], value))
        variants[CALIBRATED] = predictions
    if (shares := trained_shares(run)) is not None:
        adjusted = apply_shares(predictions.probabilities, shares, (1.0,) * len(shares))
        variants[EQUAL_SHARES] = raw.with_probabilities(adjusted)
    if tta:
        variants |= _augmented(run, table, raw, seed, threads)
    estimates = {name: estimate(part, resamples, seed) for name, part in variants.items()}
    conditions = {inference.WHOLE: estimates[AS_TRAINED]} | {
        name: estimate(_predictions(run, table, outputs.logits[name]), resamples, seed) for name in masks
    }
    gallery, no_gallery = None, "Left out (saliency=false)."
    if saliency:
        gallery, no_gallery = _gallery(run, table, predictions, seed)
    probes, source_text = _probes(table.iloc[probed], outputs.features, seed)
    points = calibration.points if calibration is not None else ()
    sources = [source or "not stated" for source in table["source"]]
    named = bool((table["source"] != "").any())
    external = None
    if not is_own_data:
        logits, found = outputs.logits[inference.WHOLE], estimates.get(CALIBRATED) or estimates[AS_TRAINED]
        own_test, no_own = _own_estimates(run, own, calibration, resamples, seed, threads)
        external = ExternalTest(
            own_test,
            no_own,
            {} if own_test is None else drops(own_test, found),
            _recalibrated(run, few, raw, logits, prevalence, resamples, seed, threads) if len(few) else None,
        )
    return EvaluationResult(
        run,
        table,
        is_own_data,
        predictions,
        raw,
        estimates,
        calibration,
        no_calibration,
        tuple(apply_operating_point(point, predictions, prevalence.get(point.class_name)) for point in points),
        conditions,
        _verdict(conditions),
        probes,
        source_text,
        gallery,
        no_gallery,
        leaks,
        time.perf_counter() - start,
        request,
        source_only(run.splits, table, predictions, resamples, seed),
        group_metrics(predictions, sources, resamples, seed) if named else None,
        external,
    )


def results_figure(run: Run, n: int, seed: int) -> Figure:
    """Random test images with their true and predicted class."""
    table, predictions = _own_test(run)
    rows = np.sort(np.random.default_rng(seed).permutation(len(table))[:n])
    return _titled_figure(run, table, predictions, rows)


def top_losses_figure(run: Run, n: int) -> Figure:
    """The test images with the highest cross-entropy, highest first."""
    table, predictions = _own_test(run)
    return _titled_figure(run, table, predictions, _by_loss(predictions)[:n])


def _own_test(run: Run) -> tuple[pd.DataFrame, Predictions]:
    table = own_images(run, own_records(run), "test")
    return table, _predictions(run, table, inference.infer(run, list(table["file"])).logits[inference.WHOLE])


def _by_loss(predictions: Predictions) -> npt.NDArray[np.int64]:
    """Rows of the images, the highest loss first."""
    return np.argsort(-image_nll(predictions.labels, predictions.probabilities), kind="stable")


def _titled_figure(run: Run, table: pd.DataFrame, predictions: Predictions, rows: npt.NDArray[np.int64]) -> Figure:
    read = inference.image_reader(run)
    images = np.stack([read(table["file"].iloc[row]) for row in rows])
    return batch_figure(images, [predictions.describe(row) for row in rows])


def _find_images(
    run: Run, records: pd.DataFrame | None, subset: str, class_map: Mapping[str, str | None] | None
) -> tuple[pd.DataFrame, pd.DataFrame | None, bool]:
    """The test images, the run's own data if it is available, and whether the former are part of the latter."""
    if records is None:
        records = own_records(run)
        return own_images(run, records, subset), records, True
    records = crop_as_trained(run, records)
    if is_own(run, records, subset):
        return own_images(run, records, subset), records, True
    table = external_images(records, run.class_names, class_map)
    try:
        return table, own_records(run), False
    except UserError:
        return table, None, False


def _predictions(run: Run, table: pd.DataFrame, logits: Any) -> Predictions:
    numbers = {name: number for number, name in enumerate(run.class_names)}
    labels = [numbers[label] for label in table["label"]]
    probabilities = apply_temperature(logits, 1.0)
    return Predictions.build(labels, probabilities, run.class_names, list(table["path"]), list(table["patient_id"]))


def _own_estimates(
    run: Run, own: pd.DataFrame | None, calibration: Calibration | None, resamples: int, seed: int, threads: int | None
) -> tuple[Estimates | None, str]:
    """Metrics of the run's own test images, or None and the reason."""
    if own is None:
        return None, "the run's own images are not here"
    try:
        table = own_images(run, own, "test")
    except UserError as error:
        return None, str(error)
    logits = inference.infer(run, list(table["file"]), threads=threads, what="Own test images").logits[inference.WHOLE]
    predictions = _predictions(run, table, logits)
    if calibration is not None:
        predictions = predictions.with_probabilities(apply_temperature(logits, calibration.temperature.value))
    return estimate(predictions, resamples, seed), ""


def _recalibrated(
    run: Run,
    few: pd.DataFrame,
    rest: Predictions,
    logits: npt.NDArray[np.float64],
    prevalence: Mapping[str, float],
    resamples: int,
    seed: int,
    threads: int | None,
) -> Recalibrated:
    outputs = inference.infer(run, list(few["file"]), threads=threads, what="Images for recalibration")
    few_logits = outputs.logits[inference.WHOLE]
    return recalibrated(_predictions(run, few, few_logits), few_logits, rest, logits, prevalence, resamples, seed)


def _without_border(images: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    return np.stack([resize(image, images.shape[1]) for image in remove_border(images)])


def _augmented(
    run: Run, table: pd.DataFrame, raw: Predictions, seed: int, threads: int | None
) -> dict[str, Predictions]:
    views = inference.infer_augmented(run, list(table["file"]), tta_augmentation(run.config), seed, threads)
    beta, passes = inference.TTA_BETA, inference.TTA_PASSES
    return {
        "TTA, fastai's rule": raw.with_probabilities(beta * raw.probabilities + (1 - beta) * views),
        "TTA, plain mean": raw.with_probabilities((raw.probabilities + passes * views) / (passes + 1)),
    }


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


def _probed_rows(table: pd.DataFrame, seed: int) -> list[int]:
    """Rows of the images that the source probe uses: all, or a random part of more than `MAX_PROBED`."""
    rows = np.arange(len(table))
    if len(rows) > MAX_PROBED:
        rows = np.sort(np.random.default_rng(seed).choice(rows, MAX_PROBED, replace=False))
    return [int(row) for row in rows]


def _probes(table: pd.DataFrame, features: Any, seed: int) -> tuple[dict[str, Probe], str]:
    labels, sources = list(table["label"]), list(table["source"])
    if not any(sources):
        return {}, "The data set names no sources, so source and label cannot be compared."
    sources = [source or "not stated" for source in sources]
    text = label_from_source(labels, sources)[1]
    patients = list(table["patient_id"])
    probes = {"all images": probe_source(features, sources, patients, seed=seed)}
    return probes | probe_within_classes(features, labels, sources, patients, seed=seed), text


def _gallery(run: Run, table: pd.DataFrame, predictions: Predictions, seed: int) -> tuple[Gallery | None, str]:
    rows, read = _shown_rows(predictions, seed), inference.image_reader(run)
    images = torch.from_numpy(np.stack([read(table["file"].iloc[row]) for row, _ in rows])).unsqueeze(1).to(run.device)
    classes = torch.tensor([int(predictions.predicted[row]) for row, _ in rows], device=run.device)
    pixels = run.module.normalise(images)
    try:
        maps = torch.cat(
            [grad_cam(run.module.network, pixels[i : i + 1], classes[i : i + 1]) for i in range(len(rows))]
        )
        check = randomised_weights_check(run.module.network, pixels[:8], classes[:8], seed)
    except UserError as error:
        return None, f"{error}."
    numbers, kinds = zip(*rows, strict=True)
    return Gallery(images.cpu().numpy(), maps.cpu().numpy(), numbers, kinds, check), ""


def _shown_rows(predictions: Predictions, seed: int) -> list[tuple[int, str]]:
    """Rows to draw maps for, with the reason: highest losses, least confident hits, random images of each class."""
    confidence, right = predictions.probabilities.max(axis=1), predictions.predicted == predictions.labels
    worst = _by_loss(predictions)[:_TOP_LOSSES]
    unsure = np.argsort(confidence, kind="stable")
    unsure = unsure[right[unsure] & ~np.isin(unsure, worst)][:_UNSURE_HITS]
    rows = [(int(row), TOP_LOSS) for row in worst] + [(int(row), UNSURE_HIT) for row in unsure]
    random = np.random.default_rng(seed)
    for k in range(len(predictions.class_names)):
        of_class = np.flatnonzero(predictions.labels == k)
        drawn = random.choice(of_class, min(_PER_CLASS, len(of_class)), replace=False)
        rows += [(int(row), RANDOM) for row in drawn]
    return rows
