"""Metrics by source, and by class within a source: a mean can hide a group of images that the model fails on."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from covid_xray.metrics.bootstrap import RESAMPLES
from covid_xray.metrics.estimates import Estimates, estimate, interval_dict
from covid_xray.metrics.intervals import Interval, clustered_exact_interval
from covid_xray.metrics.predictions import Predictions

# Patients that a group needs to be called the worst; the lowest of many tiny groups is 0 by chance.
FEWEST_IN_WORST = 10
SOURCE_METRICS = ("accuracy", "balanced_accuracy", "macro_auroc")


@dataclass(frozen=True)
class Group:
    """The test images of one class from one source.

    Attributes:
        class_name: The class.
        source: The source.
        images: Number of images.
        patients: Number of patients.
        sensitivity: Share of the images that the model assigns to their class, with its exact interval.
    """

    class_name: str
    source: str
    images: int
    patients: int
    sensitivity: Interval


@dataclass(frozen=True, eq=False)
class GroupMetrics:
    """Metrics of parts of a test set.

    Attributes:
        sources: All metrics of the images of each source.
        groups: Every class within every source, the lowest sensitivity first.
        worst: The group with the lowest sensitivity of those with at least `FEWEST_IN_WORST` patients; None if there
            are fewer than two such groups.
    """

    sources: Mapping[str, Estimates]
    groups: tuple[Group, ...]
    worst: Group | None

    def text(self) -> str:
        """The worst group in one sentence."""
        if self.worst is None:
            return f"Worst group: not defined, fewer than two groups have {FEWEST_IN_WORST} patients."
        found = self.worst
        return (
            f"Worst group: {found.class_name} from {found.source}, {found.sensitivity.text(percent=True)} of "
            f"{found.images} images of {found.patients} patients are assigned to their class. It was chosen as the "
            "lowest of several, so on new images expect a higher value."
        )

    def to_dict(self) -> dict[str, Any]:
        """Convert to plain types for ``metrics.json``."""
        return {
            "sources": {name: found.to_dict() for name, found in self.sources.items()},
            "groups": [_plain(group) for group in self.groups],
            "worst": None if self.worst is None else _plain(self.worst),
        }


def group_metrics(
    predictions: Predictions, sources: Sequence[str], resamples: int = RESAMPLES, seed: int = 0
) -> GroupMetrics:
    """Compute the metrics of every source, and the sensitivity of every class within every source.

    Args:
        predictions: Predictions of the model.
        sources: Source of each image (n,).
        resamples: Number of bootstrap resamples, for the metrics of a source.
        seed: Seed of the bootstrap.

    Source: Sagawa et al. 2020 (worst-group accuracy, groups of class and attribute).
    """
    places = np.asarray(sources, dtype=object)
    rows = {str(name): np.flatnonzero(places == name) for name in sorted(set(places.tolist()))}
    by_source = {name: estimate(predictions.select(part), resamples, seed) for name, part in rows.items()}
    correct, patients = predictions.predicted == predictions.labels, predictions.patient_index
    groups = []
    for name, part in rows.items():
        for k, class_name in enumerate(predictions.class_names):
            inside = part[predictions.labels[part] == k]
            if len(inside):
                found = clustered_exact_interval(correct[inside], patients[inside])
                groups.append(Group(class_name, name, len(inside), len(set(patients[inside].tolist())), found))
    groups.sort(key=lambda group: group.sensitivity.value)
    large = [group for group in groups if group.patients >= FEWEST_IN_WORST]
    return GroupMetrics(by_source, tuple(groups), large[0] if len(large) > 1 else None)


def _plain(group: Group) -> dict[str, Any]:
    return {
        "class": group.class_name,
        "source": group.source,
        "images": group.images,
        "patients": group.patients,
        "sensitivity": interval_dict(group.sensitivity),
    }
