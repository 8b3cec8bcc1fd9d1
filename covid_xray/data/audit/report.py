"""Every known way to fool oneself with a collection of X-rays, looked for before training.

The same image or patient on two sides of a split makes test figures too good; the same image under two labels makes
them meaningless; a source that goes with the label lets a classifier look elsewhere than at the lungs.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from covid_xray.data.audit.associations import associations
from covid_xray.data.audit.fingerprints import Fingerprints, fingerprint_files, reasons
from covid_xray.data.audit.near_duplicates import MAX_BITS, MIN_CORRELATION, find_near_duplicates, groups
from covid_xray.errors import UserError

Members = dict[str, list[str]]  # paths by split or by label


@dataclass(frozen=True)
class AuditReport:
    """What an audit found.

    Attributes:
        unreadable: Reason by path.
        exact_duplicates: Groups of images with the same pixels.
        near_duplicates: Groups of images that look the same, not all with the same pixels.
        patients_across_splits: By patient, paths by split.
        images_across_splits: Groups of the same or near-same image in several splits: paths by split.
        label_conflicts: Groups of the same or near-same image under several labels: paths by label.
        counts: Images and patients: in all, by class, by split and class, by source and class.
        associations: See `covid_xray.data.audit.associations.associations`.
        thresholds: What counts as near.
    """

    unreadable: dict[str, str]
    exact_duplicates: list[list[str]]
    near_duplicates: list[list[str]]
    patients_across_splits: dict[str, Members]
    images_across_splits: list[Members]
    label_conflicts: list[Members]
    counts: dict[str, Any]
    associations: list[dict[str, Any]]
    thresholds: dict[str, float] = field(
        default_factory=lambda: {
            "hash_bits": 256,
            "most_bits_different": MAX_BITS,
            "least_correlation": MIN_CORRELATION,
        }
    )

    def leaks(self) -> list[str]:
        """What must stop training, a sentence for each: the same image or patient on two sides, with the files."""
        images = [f"the same image in {_sides(members)}" for members in self.images_across_splits]
        patients = [
            f"patient {patient} in {_sides(members)}" for patient, members in self.patients_across_splits.items()
        ]
        return images + patients

    def warnings(self) -> list[str]:
        """Plain words for every association that a classifier could use."""
        return [row["warning"] for row in self.associations if row["warning"]]

    def to_json(self) -> str:
        """The report as JSON text."""
        return json.dumps(asdict(self), indent=2, ensure_ascii=False) + "\n"


class RefusedDataError(UserError):
    """Data that must not be trained on.

    Args:
        message: One sentence for the user.
        report: The whole audit, for who wants to see it all the same.
    """

    def __init__(self, message: str, report: AuditReport) -> None:
        super().__init__(message)
        self.report = report


def audit_records(records: pd.DataFrame, cache: Path | None = None, workers: int | None = None) -> AuditReport:
    """Read every image, or what is known of it from an earlier audit, and audit the data.

    Args:
        records: Table of images with assigned splits.
        cache: See `covid_xray.data.audit.fingerprints.fingerprint_files`.
        workers: Number of processes; None for what the machine has.
    """
    return audit(records, fingerprint_files(records["file"].tolist(), cache, workers))


def refuse_leaks(report: AuditReport, shown: int = 5) -> None:
    """Stop before training on data that leaks.

    Raises:
        RefusedDataError: With the first offending files, and the number of all.
    """
    if leaks := report.leaks():
        more = f"; and {len(leaks) - shown} more" if len(leaks) > shown else ""
        raise RefusedDataError(
            f"the data leaks between train, validation and test: {'; '.join(leaks[:shown])}{more}; "
            f"remove the copies, group the patients (data.split=patient), or set data.allow_leakage=true to go on and "
            f"have the results marked as leaked",
            report,
        )


def refuse_unreadable(report: AuditReport, shown: int = 3) -> None:
    """Stop before training on images that cannot be read.

    Raises:
        RefusedDataError: With the first such images and why, and the number of all.
    """
    if report.unreadable:
        first = "; ".join(f"{path} ({reason})" for path, reason in list(report.unreadable.items())[:shown])
        raise RefusedDataError(
            f"{len(report.unreadable)} images cannot be read: {first}; mend them, or leave them out of the data "
            f"(`covid-xray prepare` does)",
            report,
        )


def audit(records: pd.DataFrame, fingerprints: Fingerprints) -> AuditReport:
    """Audit a table of images.

    Args:
        records: Columns ``path``, ``file``, ``label``, ``patient_id``, ``source``, ``split`` (all assigned), and
            ``view`` where known.
        fingerprints: Of the files, in the records' order.
    """
    table = records.reset_index(drop=True).assign(width=fingerprints.width, height=fingerprints.height)
    if "view" not in table:
        table["view"] = ""
    readable = np.flatnonzero(fingerprints.reason == b"")
    exact, near, same = _duplicates(fingerprints, readable)
    paths = table["path"].tolist()
    return AuditReport(
        unreadable=reasons(fingerprints, paths),
        exact_duplicates=[[paths[row] for row in group] for group in exact],
        near_duplicates=[[paths[row] for row in group] for group in near],
        patients_across_splits=_patients_across_splits(table),
        images_across_splits=_across(table, same, "split"),
        label_conflicts=_across(table, same, "label"),
        counts=_counts(table),
        associations=associations(table.loc[readable]) if len(readable) else [],
    )


def patient_groups(records: pd.DataFrame, fingerprints: Fingerprints) -> pd.Series:
    """Name of the group of patients that a split must keep together, because they share an image.

    Published collections list copies of one image under several patients; split by patient alone, they would leak.

    Args:
        records: Column ``patient_id``.
        fingerprints: Of the files, in the records' order.

    Returns:
        Group by record; a patient who shares no image is a group alone.
    """
    numbers, patients = pd.factorize(records["patient_id"])
    *_, same = _duplicates(fingerprints, np.flatnonzero(fingerprints.reason == b""))
    links = [(int(numbers[a]), int(numbers[b])) for rows in same for a, b in pairwise(rows)]
    first = np.arange(len(patients))
    for group in groups(np.array(links, dtype=np.int64).reshape(-1, 2)):
        first[group] = group[0]
    return pd.Series(np.asarray(patients)[first[numbers]], index=records.index)


def copies_among(images: Fingerprints, others: Fingerprints) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Say of every image whether the others hold one of the same pixels, and whether they hold one that looks the same.

    Args:
        images: Images, n of them.
        others: Where to look.

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
    """Groups of rows: same pixels; near but not all of the same pixels; both together."""
    pixels = pd.Series(fingerprints.pixels[readable], index=readable)
    exact = [sorted(map(int, rows)) for rows in pixels.groupby(pixels).groups.values() if len(rows) > 1]
    near = readable[find_near_duplicates(fingerprints.hash[readable], fingerprints.thumbnail[readable])]
    chains = [(a, b) for group in exact for a, b in pairwise(group)]
    links = np.concatenate([near.reshape(-1, 2), np.array(chains, dtype=np.int64).reshape(-1, 2)])
    same = groups(links)
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
