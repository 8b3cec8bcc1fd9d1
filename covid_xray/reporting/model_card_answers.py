"""What software can say for the items of CLAIM 2024 about a study."""

from omegaconf import OmegaConf

from covid_xray.reporting.evaluation_report import covid_class, data_words, key_figures, origins
from covid_xray.reporting.model_card import render_model_card
from covid_xray.reporting.tables import metric_text
from covid_xray.runs.evaluate import CENTRE_BLACK, EvaluationResult
from covid_xray.runs.provenance import versions


def model_card(study: EvaluationResult) -> str:
    """The model card as Markdown."""
    warnings = [*study.leaks, *study.estimates.warnings]
    if study.verdict.cheats:
        warnings.append(study.verdict.text)
    return render_model_card(study.run.folder.path.resolve().name, _answers(study), key_figures(study), tuple(warnings))


def _answers(study: EvaluationResult) -> dict[int, str]:
    cfg, names = study.run.cfg, ", ".join(study.predictions.class_names)
    model = OmegaConf.select(cfg, "model.architecture") or OmegaConf.select(cfg, "model._target_")
    splits = study.run.splits
    sizes = ", ".join(f"{split} {count:,}" for split, count in splits["split"].value_counts().items())
    leaks = " ".join(study.leaks) or "No patient and no file is on two sides."
    where = "internal" if study.own else "external"
    other = "Not in this evaluation; `covid-xray evaluate run=... data=...` tests on another data set."
    return {
        1: f"A convolutional network ({model}) that tells chest X-rays apart: {names}.",
        7: _data_sources(study),
        9: f"Read as 8-bit grey, both sides resized to {study.run.image_size} pixels, normalised per channel.",
        10: f"Images by subset: {sizes}.",
        12: "Images that cannot be read end the run with an error; none is filled in.",
        19: f"Assigned by seed {cfg.get('seed')} and class, or as the data says (`splits.csv` has every image).",
        20: f"{_level(study)} {leaks}",
        21: "No sample size was calculated; warnings above name classes with fewer than 30 test images.",
        22: f"```yaml\n{OmegaConf.to_yaml(cfg.model, resolve=True)}```",
        23: versions(),
        24: f"Pretrained weights: {OmegaConf.select(cfg, 'model.weights') or 'none (random)'}.",
        25: f"```yaml\n{OmegaConf.to_yaml(OmegaConf.masked_copy(cfg, ['schedule', 'augment']), resolve=True)}```",
        26: f"The {study.run.checkpoint} checkpoint (best: lowest validation loss; last: end of training).",
        27: "None: one network."
        + (" Test-time augmentation is reported beside it." if len(study.variants) > 2 else ""),
        28: "Confusion matrix, sensitivity, specificity, PPV, NPV, F1, AUROC, average precision, calibration.",
        29: "95 % intervals: exact for proportions, images clustered by patient; else bootstrap over patients.",
        30: f"Masked images ({', '.join(study.conditions)}). {study.verdict.text}",
        31: study.gallery.check.text if study.gallery is not None else study.no_gallery,
        32: data_words(study) if study.own else "Not in this evaluation.",
        33: other if study.own else data_words(study),
        35: f"{len(study.table):,} images of {study.predictions.n_patients:,} patients took part in this {where} test.",
        37: _figures(study, ("accuracy", "balanced_accuracy", "macro_auroc", "macro_f1", "mcc")),
        38: _by_class(study),
        39: _failures(study),
        40: f"{leaks} {study.source_text} {study.verdict.text}",
        43: f"Code at commit {origins(study)['commit of this software']}; run folder {study.run.folder.path.name}.",
    }


def _data_sources(study: EvaluationResult) -> str:
    counts = study.table["source"].replace("", "not stated").value_counts()
    return "Sources of the test images: " + ", ".join(f"{name} ({count:,})" for name, count in counts.items()) + "."


def _level(study: EvaluationResult) -> str:
    splits = study.run.splits
    shared = splits.groupby("patient_id")["split"].nunique().gt(1).sum()
    return "Disjoint by patient." if not shared else f"By image: {shared:,} patients are in more than one subset."


def _figures(study: EvaluationResult, names: tuple[str, ...]) -> str:
    intervals = study.estimates.intervals
    return "; ".join(f"{name.replace('_', ' ')} {metric_text(name, intervals[name])}" for name in names) + "."


def _by_class(study: EvaluationResult) -> str:
    lines = []
    for name in study.predictions.class_names:
        parts = _figures(study, tuple(f"{key}/{name}" for key in ("sensitivity", "specificity", "auroc")))
        lines.append(f"\n- {name} ({study.estimates.cases[name]:,} images): {parts.replace('/' + name, '')}")
    return "".join(lines)


def _failures(study: EvaluationResult) -> str:
    wrong = int((study.predictions.predicted != study.predictions.labels).sum())
    words = f"{wrong:,} of {len(study.table):,} images are wrong; the surest errors are drawn in the report."
    if covid := covid_class(study.predictions.class_names):
        k = study.predictions.class_names.index(covid)
        row = study.estimates.scores.confusion[k]
        words += f" Of {int(row.sum()):,} {covid} images, {int(row.sum() - row[k]):,} were missed."
    black = study.conditions[CENTRE_BLACK].intervals["accuracy"]
    return f"{words} Accuracy with the centre blacked out: {black.text(percent=True)}."
