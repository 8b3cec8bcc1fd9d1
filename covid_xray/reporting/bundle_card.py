"""The model card of a bundle: README.md with the metadata that model hubs read, and no patient, file or path."""

import math
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from torch import Tensor

from covid_xray.errors import UserError
from covid_xray.files import write_atomically
from covid_xray.metrics.intervals import Interval
from covid_xray.metrics.scores import LABELS
from covid_xray.reporting.html import NOT_FOR_DIAGNOSIS, output_folder
from covid_xray.reporting.model_card import MARKDOWN
from covid_xray.reporting.tables import metric_text
from covid_xray.runs import provenance
from covid_xray.runs.bundle import CARD_FILE, bundle_config, check_bundle_output, write_bundle_files
from covid_xray.runs.calibration import Calibration
from covid_xray.runs.config import select
from covid_xray.runs.export import check_members
from covid_xray.runs.folder import METRICS_FILE, RunFolder, is_number, read_json
from covid_xray.runs.load import Run

TAGS = ("chest-x-ray", "medical-imaging", "research-only", "not-for-diagnosis", "pytorch", "safetensors")
SHOWN = ("accuracy", "balanced_accuracy", "macro_auroc", "macro_f1", "mcc")
# Metrics that the hub lists, by our name.
HUB_METRICS = {"accuracy": "accuracy", "macro_auroc": "roc_auc", "macro_f1": "f1", "mcc": "matthews_correlation"}


def write_bundle(
    runs: Run | Sequence[Run],
    output: str | Path,
    license: str | None = None,
    images: Tensor | None = None,
    tolerance: float = 1e-3,
) -> float:
    """Write a bundle: weights, configuration, preprocessing, calibration and model card.

    The metrics in the card are those of the run's evaluation ``test``, if there is one of this checkpoint. The bundle
    of several runs is a folder with a bundle of each, which `predict` and `evaluate` average.

    Args:
        runs: The trained run on the CPU, or several of the same classes.
        output: The folder; it is new, empty, or an earlier bundle.
        license: Licence of the weights as model hubs name it, such as ``mit``; None: ``unknown``.
        images: See `covid_xray.runs.bundle.write_bundle_files`.
        tolerance: Largest difference of a logit that is accepted.

    Returns:
        The largest difference of a logit between a run and its bundle.

    Raises:
        UserError: If the folder has other files or cannot be written, or a bundle differs.
    """
    members, folder = (runs,) if isinstance(runs, Run) else tuple(runs), Path(output)
    calibrations = check_members(members)
    check_bundle_output(folder)
    if len(members) == 1:
        card = bundle_card(members[0], calibrations[0] if calibrations else None, stored_metrics(members[0]), license)
        return write_bundle_files(members[0], folder, card, images, tolerance)
    card = ensemble_card(members, folder.resolve().name, license)
    with output_folder(folder):
        for old in folder.iterdir():
            shutil.rmtree(old) if old.is_dir() else old.unlink()
        differences = [
            write_bundle(run, folder / f"member-{number}", license, None, tolerance)
            for number, run in enumerate(members, start=1)
        ]
        write_atomically(folder / CARD_FILE, card)
    return max(differences)


def ensemble_card(runs: Sequence[Run], name: str, license: str | None = None) -> str:
    """The model card of several runs as one, as Markdown; each member has a card of its own.

    Args:
        runs: The trained runs.
        name: Name of the model.
        license: See `write_bundle`.
    """
    return MARKDOWN.get_template("ensemble_card.md.j2").render(
        metadata=hub_metadata(name, license, {}),
        name=name,
        notice=NOT_FOR_DIAGNOSIS,
        classes=runs[0].class_names,
        count=len(runs),
        commit=provenance.commit(),
    )


def stored_metrics(run: Run) -> dict[str, Any]:
    """Content of ``metrics.json`` of the run's evaluation ``test``; empty if there is none of this checkpoint."""
    try:
        found = read_json(RunFolder(run.folder.path).evaluation("test") / METRICS_FILE)
        same = found["provenance"]["checkpoint"] == run.checkpoint_text and found["own_test_images"] is True
        return found if same else {}
    except (UserError, KeyError, TypeError):
        return {}


def bundle_card(run: Run, calibration: Calibration | None, found: Mapping[str, Any], license: str | None = None) -> str:
    """The model card as Markdown.

    Args:
        run: The trained run.
        calibration: Its calibration, or None.
        found: From `stored_metrics`.
        license: See `write_bundle`.

    Source: Hugging Face, model card metadata specification.
    """
    name, metrics, leaks = run.folder.path.resolve().name, _intervals(found), _leaks(run, found)
    return MARKDOWN.get_template("bundle_card.md.j2").render(
        metadata=hub_metadata(name, license, {} if leaks else metrics),
        name=name,
        notice=NOT_FOR_DIAGNOSIS,
        leaks=leaks,
        classes=run.class_names,
        metrics={LABELS[metric]: metric_text(metric, value) for metric, value in metrics.items()},
        data=found.get("data", ""),
        size=run.image_size,
        base_size=run.base_size,
        mean=_numbers(run.module.mean.flatten().tolist()),
        std=_numbers(run.module.std.flatten().tolist()),
        calibration=calibration,
        pretrained=_pretrained(run),
        recipe=bundle_config(run),
        checkpoint=run.checkpoint,
        commit=provenance.commit(),
        libraries=provenance.versions(),
    )


def hub_metadata(name: str, license: str | None, metrics: Mapping[str, Interval]) -> str:
    """The YAML block of a model card.

    Args:
        name: Name of the model.
        license: Licence as the hub names it; None: ``unknown``.
        metrics: Metrics on the test images, by our names.

    Raises:
        UserError: If the licence is no name that a hub could know.
    """
    if license is not None and not (isinstance(license, str) and license.replace("-", "").replace(".", "").isalnum()):
        raise UserError(f"license must be a name such as mit or cc-by-4.0, not {license!r}")
    values = [
        {"type": hub, "value": round(metrics[ours].value, 4), "name": LABELS[ours]}
        for ours, hub in HUB_METRICS.items()
        if ours in metrics
    ]
    content: dict[str, Any] = {
        "license": license or "unknown",
        "library_name": "covid-xray",
        "pipeline_tag": "image-classification",
        "tags": list(TAGS),
    }
    if values:
        result = {
            "task": {"type": "image-classification", "name": "Chest X-ray classification"},
            "dataset": {"type": "chest-x-rays", "name": "Test images of the training's own data", "split": "test"},
            "metrics": values,
        }
        content |= {
            "metrics": [value["type"] for value in values],
            "model-index": [{"name": name, "results": [result]}],
        }
    return yaml.safe_dump(content, sort_keys=False, allow_unicode=True)


def _intervals(found: Mapping[str, Any]) -> dict[str, Interval]:
    """Metrics of an evaluation, without those that are not numbers."""
    try:
        metrics = found["variants"][found["written_predictions"]]["metrics"]
        found = {name: metrics[name] for name in SHOWN if is_number(metrics[name]["value"])}
        return {
            name: Interval(each["value"], _number(each["low"]), _number(each["high"])) for name, each in found.items()
        }
    except (KeyError, TypeError):
        return {}


def _number(value: object) -> float:
    return float(value) if is_number(value) else math.nan


def _leaks(run: Run, found: Mapping[str, Any]) -> list[str]:
    """Sentences on leaks: from the evaluation, or the mark of the training."""
    texts = found.get("leaks")
    if listed := [str(text) for text in texts if str(text).startswith("Leak")] if isinstance(texts, list) else []:
        return listed
    marked = run.metrics.get("leaks")
    return [f"The audit before training found {marked:.0f} leaks between the splits."] if marked else []


def _pretrained(run: Run) -> str:
    """The pretrained weights: a name, but no path."""
    weights = select(run.config, "weights")
    if weights is None:
        return "none stated"
    plain = isinstance(weights, str) and "/" not in weights and "\\" not in weights and "." not in weights
    return str(weights) if plain else "a local file or another run"


def _numbers(values: list[float]) -> str:
    return ", ".join(f"{value:.4g}" for value in values)
