"""The model card: the 44 items of CLAIM 2024, filled in from the records of a run as far as possible.

Source: Tejani et al. 2024, Checklist for Artificial Intelligence in Medical Imaging, 2024 update.
"""

import json
import re
from collections.abc import Mapping
from importlib.resources import files
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from covid_xray.metrics.intervals import FEW_CASES
from covid_xray.metrics.scores import LABELS
from covid_xray.reporting.evaluation_report import covid_class, describe_data, key_metrics
from covid_xray.reporting.html import NOT_FOR_DIAGNOSIS
from covid_xray.reporting.tables import metric_text
from covid_xray.runs import provenance
from covid_xray.runs.config import select
from covid_xray.runs.evaluate import CENTRE_BLACK, EvaluationResult

# By section: number and short description of every item.
CLAIM: Mapping[str, Mapping[str, str]] = json.loads(
    files("covid_xray.reporting").joinpath("templates/claim_2024.json").read_text(encoding="utf-8")
)
_MARKUP = re.compile(r"[\\`*_\[\]<>|~$&#]|(?<=:)/(?=/)|(?<=www)\.", re.IGNORECASE)


def escape_markdown(value: object) -> Markup:
    """Text in one line, with backslashes before all characters that could form Markdown, HTML or a link."""
    return value if isinstance(value, Markup) else Markup(_MARKUP.sub(r"\\\g<0>", " ".join(str(value).split())))  # noqa: S704


# `finalize` escapes every value for Markdown; autoescape marks what the template itself contains as safe.
MARKDOWN = Environment(
    loader=PackageLoader("covid_xray.reporting"),
    autoescape=True,
    finalize=escape_markdown,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    keep_trailing_newline=True,
)


def model_card(result: EvaluationResult) -> str:
    """The model card as Markdown."""
    verdict = [result.verdict.text] if result.verdict.cheats else []
    return MARKDOWN.get_template("model_card.md.j2").render(
        name=result.run.folder.path.resolve().name,
        notice=NOT_FOR_DIAGNOSIS,
        warnings=[*result.leaks, *result.estimates.warnings, *verdict],
        key_metrics=key_metrics(result),
        claim=CLAIM,
        answers=_answers(result),
    )


def _answers(result: EvaluationResult) -> dict[int, str]:
    """Answers that the software can give, by number of the item."""
    run, predictions = result.run, result.predictions
    model = select(run.config, "model.architecture") or select(run.config, "model._target_")
    counts = run.splits["split"].value_counts()
    subsets = ", ".join(f"{split} {count:,}" for split, count in counts.items()) or "not stated (no splits.csv here)"
    sources = result.table["source"].replace("", "not stated").value_counts()
    shared = run.splits.groupby("patient_id")["split"].nunique().gt(1).sum()
    level = f"By image: {shared:,} patients are in more than one subset." if shared else "Disjoint by patient."
    if counts.empty:
        level = "Not stated (no splits.csv here)."
    leaks = " ".join(result.leaks) or "No patient and no file is in two subsets."
    tta = " Test-time augmentation is reported in addition." if result.request.get("tta") else ""
    external = "Not in this evaluation; covid-xray evaluate run=... data=... tests on another data set."
    kind = "internal" if result.is_own_data else "external"
    return {
        1: f"A convolutional network ({model}) that classifies chest X-rays: {', '.join(predictions.class_names)}.",
        7: f"Sources of the test images: {', '.join(f'{name} ({count:,})' for name, count in sources.items())}.",
        9: f"Read as 8-bit grey, both sides resized to {run.image_size} pixels, normalised per channel.",
        10: f"Images by subset: {subsets}.",
        12: "If an image cannot be read, the run ends with an error; no image is imputed.",
        19: f"Assigned by class with seed {run.config.get('seed')}, or as given by the data; splits.csv has them all.",
        20: f"{level} {leaks}",
        21: f"No sample size was calculated; warnings above name classes with fewer than {FEW_CASES} test images.",
        22: _code(run.config["model"]),
        23: provenance.versions(),
        24: f"Pretrained weights: {select(run.config, 'weights') or 'none (random)'}.",
        25: _code({group: run.config[group] for group in ("schedule", "augment")}),
        26: f"The {run.checkpoint} checkpoint (best: lowest validation loss; last: end of training).",
        27: f"None: one network.{tta}",
        28: "Confusion matrix, sensitivity, specificity, PPV, NPV, F1, AUROC, average precision, calibration.",
        29: "95 % intervals: exact for proportions, images clustered by patient; else bootstrap over patients.",
        30: f"Masked images ({', '.join(result.conditions)}). {result.verdict.text}",
        31: result.gallery.check.text if result.gallery is not None else result.no_gallery,
        32: describe_data(result) if result.is_own_data else "Not in this evaluation.",
        33: external if result.is_own_data else describe_data(result),
        35: f"{len(result.table):,} images of {predictions.n_patients:,} patients in this {kind} test.",
        37: _metrics(result, ("accuracy", "balanced_accuracy", "macro_auroc", "macro_f1", "mcc")),
        38: _metrics_by_class(result),
        39: _failures(result),
        40: f"{leaks} {result.source_text} {_sources(result)}{result.verdict.text}",
        43: f"Code at commit {provenance.commit()}; run folder {run.folder.path.resolve().name}.",
    }


def _sources(result: EvaluationResult) -> str:
    """The score of the source alone and the worst group, with a blank behind each."""
    texts = [] if result.source_only is None else [result.source_only.text]
    texts += [] if result.groups is None else [result.groups.text()]
    return "".join(f"{text} " for text in texts)


def _code(config: Mapping[str, Any]) -> Markup:
    # JSON, because no line of it can end the code block.
    return Markup(f"\n\n```json\n{json.dumps(config, indent=2, ensure_ascii=False)}\n```")  # noqa: S704


def _metrics(result: EvaluationResult, names: tuple[str, ...], suffix: str = "") -> str:
    texts = (f"{LABELS[name]} {metric_text(name, result.metrics[name + suffix])}" for name in names)
    return f"{'; '.join(texts)}."


def _metrics_by_class(result: EvaluationResult) -> Markup:
    lines = (
        f"Class {name} ({cases:,} images): {_metrics(result, ('sensitivity', 'specificity', 'auroc'), f'/{name}')}"
        for name, cases in result.estimates.cases.items()
    )
    return Markup("").join(Markup("\n- ") + escape_markdown(line) for line in lines)


def _failures(result: EvaluationResult) -> str:
    predictions = result.predictions
    wrong = int((predictions.predicted != predictions.labels).sum())
    text = f"{wrong:,} of {len(result.table):,} images are misclassified; the report shows the highest losses."
    if covid := covid_class(predictions.class_names):
        k = predictions.class_names.index(covid)
        row = result.estimates.scores.confusion[k]
        text += f" Of {int(row.sum()):,} {covid} images, {int(row.sum() - row[k]):,} were missed."
    black = result.conditions[CENTRE_BLACK].intervals["accuracy"]
    return f"{text} Accuracy with the centre blacked out: {black.text(percent=True)}."
