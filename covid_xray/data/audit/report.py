"""The audit report: what makes results on a data set too good or meaningless, found before training.

The same image or patient in two splits makes test metrics too good. The same image under two labels makes them
meaningless. If the source is associated with the label, a classifier can use it instead of the lungs.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import chain, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from covid_xray.data.audit.associations import associations
from covid_xray.data.audit.fingerprints import Fingerprints, near_duplicates, reasons
from covid_xray.data.audit.near_duplicates import (
    MAX_BITS,
    MIN_CORRELATION,
    connected_components,
    limits,
)
from covid_xray.data.audit.source_only import source_only_scores
from covid_xray.data.cache import Images, read_images
from covid_xray.errors import UserError

Members = dict[str, list[str]]  # paths by split or by label


@dataclass(frozen=True)
class AuditReport:
    """Findings of an audit.

    Attributes:
        unreadable: Reason by path.
        exact_duplicates: Groups of images with the same pixels.
        near_duplicates: Groups of near duplicates, not all with the same pixels.
        patients_across_splits: By patient, paths by split.
        images_across_splits: Groups of the same or near-same image in several splits: paths by split.
        label_conflicts: Groups of the same or near-same image under several labels: paths by label.
        counts: Images and patients: in all, by class, by split and class, by source and class.
        associations: See `covid_xray.data.audit.associations.associations`.
        source_only: See `covid_xray.data.audit.source_only.source_only_scores`.
        images_read: Whether the images were read; else nothing is known about copies and unreadable images.
        thresholds: The limits for near duplicates.
    """

    unreadable: dict[str, str]
    exact_duplicates: list[list[str]]
    near_duplicates: list[list[str]]
    patients_across_splits: dict[str, Members]
    images_across_splits: list[Members]
    label_conflicts: list[Members]
    counts: dict[str, Any]
    associations: list[dict[str, Any]]
    source_only: list[dict[str, Any]] = field(default_factory=list)
    images_read: bool = True
    thresholds: dict[str, float] = field(
        default_factory=lambda: {
            "hash_bits": 256,
            "most_bits_different": MAX_BITS,
            "least_correlation": MIN_CORRELATION,
        }
    )

    def leaks(self) -> list[str]:
        """One sentence per leak: the same image or patient in two splits, with the files."""
        labelled = [{path for paths in members.values() for path in paths} for members in self.label_conflicts]
        conflicts: set[str] = set().union(*labelled)
        images = [
            f"the same image in {_sides(members)}"
            + (", under different labels" if not conflicts.isdisjoint(chain.from_iterable(members.values())) else "")
            for members in self.images_across_splits
        ]
        patients = [
            f"patient {patient} in {_sides(members)}" for patient, members in self.patients_across_splits.items()
        ]
        return images + patients

    def raise_for_unreadable(self, shown: int = 3) -> None:
        """Refuse data with images that cannot be read.

        Raises:
            UserError: If there are any, with the first of them, the reasons and the number of all.
        """
        if self.unreadable:
            first = "; ".join(f"{path} ({reason})" for path, reason in list(self.unreadable.items())[:shown])
            raise UserError(
                f"{len(self.unreadable)} images cannot be read: {first}; repair them, or leave them out of the data "
                f"(`covid-xray prepare` does)"
            )

    def raise_for_leaks(self, shown: int = 5) -> None:
        """Refuse data that leaks between splits.

        Raises:
            UserError: If it does, with the first leaks, the number of all, and the remedies.
        """
        if leaks := self.leaks():
            more = f"; and {len(leaks) - shown} more" if len(leaks) > shown else ""
            labels = ", correct the labels of copies that differ" if any("labels" in leak for leak in leaks) else ""
            raise UserError(
                f"the data leaks between train, validation and test: {'; '.join(leaks[:shown])}{more}; remove the "
                f"copies{labels}, group the patients (split=patient), drop the splits that the data brings "
                f"(split.given=ignore), or set allow_leakage=true to go on and have the results marked as leaked"
            )

    def warnings(self) -> list[str]:
        """One sentence per association that a classifier could use, and one about images under several labels."""
        found = [row["warning"] for row in self.associations if row["warning"]]
        if conflicts := self.label_conflicts:
            found.append(
                f"{len(conflicts)} images occur under several labels, the first as {_sides(conflicts[0])}; correct the "
                f"labels, or remove the copies"
            )
        return found

    def findings(self) -> dict[str, list[str]]:
        """One line per finding, with the files, by kind of finding."""

        def sides(rows: Iterable[Members]) -> list[str]:
            return ["; ".join(f"{side}: {', '.join(paths)}" for side, paths in row.items()) for row in rows]

        crossing = self.patients_across_splits
        patients = [f"{name} ({line})" for name, line in zip(crossing, sides(crossing.values()), strict=True)]
        if not self.images_read:
            return {"same patient in several splits": patients}
        return {
            "unreadable images": [f"{path}: {reason}" for path, reason in self.unreadable.items()],
            "exact duplicates (same pixels)": [" = ".join(row) for row in self.exact_duplicates],
            "near duplicates": [" = ".join(row) for row in self.near_duplicates],
            "same image in several splits": sides(self.images_across_splits),
            "same patient in several splits": patients,
            "same image, different labels": sides(self.label_conflicts),
        }

    def limits(self) -> str:
        """What the audit does not find, in a sentence."""
        return limits() if self.images_read else "The images were not read, so copies of images are not searched."

    def to_markdown(self, shown: int = 5) -> str:
        """Number of findings, warnings, and the first findings of each kind."""
        rows = [f"| {name} | {len(lines)} |" for name, lines in self.findings().items()]
        details = [f"- {name}: `{line}`" for name, lines in self.findings().items() for line in lines[:shown]]
        warnings = [f"- **{warning}**" for warning in self.warnings()]
        scores = [f"- {source_only_text(row)}" for row in self.source_only]
        lines = ["| finding | number |", "|---|---:|", *rows, "", *warnings, "", *scores, "", *details, ""]
        return "\n".join([*lines, self.limits()])

    def to_json(self) -> str:
        """The report as JSON text."""
        return json.dumps(asdict(self), indent=2, ensure_ascii=False) + "\n"


def audit_records(
    records: pd.DataFrame,
    images: Images | None = None,
    audit_cache: str | Path | None = None,
    workers: int | None = None,
    read: bool = True,
) -> AuditReport:
    """Audit a table of images: duplicates, leaks between splits, label conflicts, associations.

    Args:
        records: Columns ``path``, ``file``, ``label``, ``patient_id``, ``source``, ``split`` (all assigned), and
            ``view`` where known.
        images: What was read of the images; None: read them now.
        audit_cache: Folder that keeps fingerprints between audits; None: keep none.
        workers: Number of threads; None for the number of cores, at most 8.
        read: False audits the table alone: counts, patients, associations. The images need not exist; their sizes are
            the columns ``width`` and ``height``, if all images have them.
    """
    if not read:
        return _audit(records, None)
    files = records["file"].tolist()
    if images is None:
        images = read_images(files, audit_cache, workers=workers)
    return _audit(records, images.select(files).fingerprints)


def _audit(records: pd.DataFrame, fingerprints: Fingerprints | None) -> AuditReport:
    table = records.reset_index(drop=True)
    if fingerprints is None:
        table, readable = _with_listed_sizes(table), np.arange(len(table))
    else:
        table = table.assign(width=fingerprints.width, height=fingerprints.height)
        readable = np.flatnonzero(fingerprints.reason == b"")
    exact, near, same = ([], [], []) if fingerprints is None else _duplicates(fingerprints, readable)
    paths = table["path"].tolist()
    return AuditReport(
        unreadable={} if fingerprints is None else reasons(fingerprints, paths),
        exact_duplicates=[[paths[row] for row in group] for group in exact],
        near_duplicates=[[paths[row] for row in group] for group in near],
        patients_across_splits=_patients_across_splits(table),
        images_across_splits=_across(table, same, "split"),
        label_conflicts=_across(table, same, "label"),
        counts=_counts(table),
        associations=associations(table.loc[readable]) if len(readable) else [],
        source_only=source_only_scores(table.loc[readable].drop_duplicates("path", keep="last")),
        images_read=fingerprints is not None,
    )


def _with_listed_sizes(table: pd.DataFrame) -> pd.DataFrame:
    """The table with numbers in ``width`` and ``height``, or without these columns if an image lacks them."""
    sides = [name for name in ("width", "height") if name in table]
    numbers = table[sides].apply(pd.to_numeric, errors="coerce")
    if len(sides) == 2 and (numbers > 0).all(axis=None):
        return table.assign(width=numbers["width"], height=numbers["height"])
    return table.drop(columns=sides)


def source_only_text(row: Mapping[str, Any]) -> str:
    """A score of `covid_xray.data.audit.source_only.source_only_scores` as a sentence."""
    value, low, high = (100 * row["accuracy"][key] for key in ("value", "low", "high"))
    auroc = "" if row["macro_auroc"] is None else f" and a macro AUROC of {row['macro_auroc']:.3f}"
    return (
        f"a classifier that sees only the {row['factor']} has an accuracy of {value:.1f} % ({low:.1f} to {high:.1f} %; "
        f"{row['correct']} of {row['test_images']} test images), a balanced accuracy of "
        f"{100 * row['balanced_accuracy']:.1f} %{auroc}"
    )


def patient_groups(records: pd.DataFrame, fingerprints: Fingerprints) -> pd.Series:
    """Group of patients, for every record, that a split must keep together because they share an image.

    Args:
        records: Column ``patient_id``.
        fingerprints: One entry per record.

    Returns:
        Group by record; a patient who shares no image is a group of one.
    """
    numbers, patients = pd.factorize(records["patient_id"])
    *_, same = _duplicates(fingerprints, np.flatnonzero(fingerprints.reason == b""))
    links = [(int(numbers[a]), int(numbers[b])) for rows in same for a, b in pairwise(rows)]
    first = np.arange(len(patients))
    for group in connected_components(np.array(links, dtype=np.int64).reshape(-1, 2)):
        first[group] = group[0]
    return pd.Series(np.asarray(patients)[first[numbers]], index=records.index)


def copies_among(images: Fingerprints, others: Fingerprints) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Whether the others hold the same pixels, and whether they hold a near duplicate, for every image.

    Args:
        images: The n images to look up.
        others: The images to compare them with.

    Returns:
        Two arrays (n,). The second is true where the first is.
    """
    pairs: Iterable[tuple[Any, Any]] = zip(images, others, strict=True)
    both = Fingerprints(*(np.concatenate(pair) for pair in pairs))
    n = len(images.pixels)
    equal, alike = np.zeros(n, dtype=np.bool_), np.zeros(n, dtype=np.bool_)
    *_, same = _duplicates(both, np.flatnonzero(both.reason == b""))
    for group in same:
        if group[-1] >= n:  # groups are sorted, and the others come last
            rows = [row for row in group if row < n]
            alike[rows] = True
            equal[rows] = np.isin(both.pixels[rows], both.pixels[[row for row in group if row >= n]])
    return equal, alike


def _duplicates(
    fingerprints: Fingerprints, readable: np.ndarray[Any, Any]
) -> tuple[list[list[int]], list[list[int]], list[list[int]]]:
    """Groups of rows: the same pixels; near duplicates that are not all equal; both together."""
    pixels = pd.Series(fingerprints.pixels[readable], index=readable)
    exact = [sorted(map(int, rows)) for rows in pixels.groupby(pixels).groups.values() if len(rows) > 1]
    near = readable[near_duplicates(fingerprints.take(readable))]
    chains = [(a, b) for group in exact for a, b in pairwise(group)]
    links = np.concatenate([near.reshape(-1, 2), np.array(chains, dtype=np.int64).reshape(-1, 2)])
    same = connected_components(links)
    return sorted(exact), [group for group in same if len(set(fingerprints.pixels[group])) > 1], same


def _patients_across_splits(table: pd.DataFrame) -> dict[str, Members]:
    sides = table.groupby("patient_id")["split"].nunique()
    crossing = table[table["patient_id"].isin(sides[sides > 1].index)]
    return {str(patient): _members(rows, "split") for patient, rows in crossing.groupby("patient_id")}


def _across(table: pd.DataFrame, same: list[list[int]], column: str) -> list[Members]:
    found = [_members(table.loc[group], column) for group in same]
    return [members for members in found if len(members) > 1]


def _members(rows: pd.DataFrame, column: str) -> Members:
    return {str(name): sorted(part["path"]) for name, part in rows.groupby(column)}


def _counts(table: pd.DataFrame) -> dict[str, Any]:
    def by(columns: list[str], rows: pd.DataFrame) -> dict[str, Any]:
        if not columns:
            return {"images": len(rows), "patients": int(rows["patient_id"].nunique())}
        return {str(name or "unknown"): by(columns[1:], part) for name, part in rows.groupby(columns[0])}

    return {
        **by([], table),
        "by_class": by(["label"], table),
        "by_split": by(["split", "label"], table),
        "by_source": by(["source", "label"], table),
    }


def _sides(members: Members) -> str:
    return " and ".join(f"{side} ({_few(paths)})" for side, paths in members.items())


def _few(paths: Sequence[str], shown: int = 2) -> str:
    more = f" and {len(paths) - shown} more" if len(paths) > shown else ""
    return ", ".join(paths[:shown]) + more
