"""A page of images of a data set: its classes, sources and splits, suspected duplicates, rejected files."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from covid_xray.data.audit.report import AuditReport, audit_records
from covid_xray.data.cache import Images
from covid_xray.data.images.grey import ImageError
from covid_xray.data.images.read import read_image
from covid_xray.data.images.resize import shrink
from covid_xray.data.parallel import map_files
from covid_xray.data.prepare import rejected_files
from covid_xray.data.split import SPLITS
from covid_xray.errors import UserError, printable
from covid_xray.files import write_atomically
from covid_xray.reporting.audit import counts_table
from covid_xray.reporting.html import Mark, Photo, PhotoGroup, Report, Section, output_folder, render_report
from covid_xray.reporting.tables import Table

_SIDE = 192  # pixels of the longer side of an image on the page
_MOST_GROUPS = 20  # classes, sources, or reasons
_MOST_COPIES = 6  # images of one group of duplicates
_MOST_LEAKS = 5
_NO_SPLITS = "The images are not divided into splits yet."


@dataclass(frozen=True)
class _Group:
    """Images to show side by side: file and caption of each."""

    title: str
    images: Sequence[tuple[str, str]]
    warns: bool = False


@dataclass(frozen=True)
class _Part:
    """A section before its images are read."""

    title: str
    groups: Sequence[_Group] = ()
    tables: Sequence[Table] = ()
    text: str = ""


def write_contact_sheet(
    records: pd.DataFrame,
    output: str | Path,
    images: Images | None = None,
    audit_cache: str | Path | None = None,
    shown: int = 8,
    duplicates: int = 30,
    seed: int = 0,
    workers: int | None = None,
) -> AuditReport:
    """Write one HTML file that shows a data set, and audit the data set for it.

    The page has random images of each class, source and split, the suspected duplicates side by side, and the files
    that were rejected: those that cannot be read, and those of `covid_xray.data.prepare.rejected_files`.

    Args:
        records: Columns as for `covid_xray.data.audit.report.audit_records`; the splits may be empty.
        output: The file to write; its name ends in ``.html``.
        images: What was read of the images; None: read them now.
        audit_cache: Folder that keeps fingerprints between audits; None: keep none.
        shown: Number of images of each class, source, split and reason.
        duplicates: Number of groups of duplicates.
        seed: Seed of the choice of images.
        workers: Number of threads; None for the number of cores, at most 8.

    Returns:
        The audit.

    Raises:
        UserError: If a setting is not valid, or the file cannot be written.
    """
    file = check_settings(output, shown, duplicates)
    report = audit_records(records, images, audit_cache, workers)
    table, random = records.reset_index(drop=True), np.random.default_rng(seed)
    unreadable = table["path"].isin(list(report.unreadable))
    has_splits = bool(table["split"].any())
    rejected = _rejected(table[unreadable], report, records)
    parts = [
        _Part("Classes", _groups(table, "label", shown, random), [counts_table(report)]),
        _sources_part(table, report, shown, random),
        _Part("Splits", _groups(table, "split", shown, random)) if has_splits else _Part("Splits", text=_NO_SPLITS),
        _duplicates_part(table, report, duplicates),
        _rejected_part(rejected, shown),
    ]
    files = list(dict.fromkeys(name for part in parts for group in part.groups for name, _ in group.images))
    pixels = dict(zip(files, map_files(_thumbnail, files, "reading images", workers), strict=True))
    sections = [
        Section(
            part.title,
            [part.text] if part.text else [],
            tables=part.tables,
            photos=[
                PhotoGroup(group.title, [Photo(pixels[name], caption) for name, caption in group.images], group.warns)
                for group in part.groups
            ],
        )
        for part in parts
    ]
    page = Report(
        "Contact sheet",
        marks=_leak_marks(report, has_splits),
        key_metrics={
            "images": f"{len(table):,}",
            "patients": f"{table['patient_id'].nunique():,}",
            "classes": f"{table['label'].nunique():,}",
            "sources": f"{table['source'].replace('', np.nan).nunique():,}",
            "leaks": f"{len(report.leaks()):,}",
            "groups of duplicates": f"{len(duplicate_groups(report)):,}",
            "rejected files": f"{len(rejected):,}",
        },
        warnings=[f"{warning[0].upper()}{warning[1:]}." for warning in report.warnings()],
        sections=sections,
    )
    with output_folder(file.parent):
        write_atomically(file, render_report(page))
    return report


def check_settings(output: str | Path, shown: int, duplicates: int) -> Path:
    """Check the settings of `write_contact_sheet`, and return the path of the file.

    Raises:
        UserError: If a number is below 1, or the path is a folder or does not end in ``.html``.
    """
    file = Path(output)
    if file.is_dir() or file.suffix.lower() != ".html":
        raise UserError(f"output must be a file whose name ends in .html, not {str(output)!r}")
    for name, value in (("shown", shown), ("duplicates", duplicates)):
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise UserError(f"{name} must be a whole number of at least 1, not {value!r}")
    return file


def duplicate_groups(report: AuditReport) -> list[list[str]]:
    """Paths of images that look alike, by group; first those in several splits or with several labels."""
    near = {path for group in report.near_duplicates for path in group}
    groups = [*report.near_duplicates, *(group for group in report.exact_duplicates if near.isdisjoint(group))]
    members = [*report.images_across_splits, *report.label_conflicts]
    crossing = {path for sides in members for paths in sides.values() for path in paths}
    return sorted((list(dict.fromkeys(group)) for group in groups), key=crossing.isdisjoint)


def _leak_marks(report: AuditReport, has_splits: bool) -> list[Mark]:
    if not has_splits:
        return [Mark("Leaks", _NO_SPLITS, None)]
    leaks = report.leaks()
    more = [f"And {len(leaks) - _MOST_LEAKS:,} more leaks."] if len(leaks) > _MOST_LEAKS else []
    texts = [f"{leak[0].upper()}{leak[1:]}." for leak in leaks[:_MOST_LEAKS]] + more
    return [Mark("Leak", text, True) for text in texts] or [Mark("Leaks", "No leak between splits.", False)]


def _groups(table: pd.DataFrame, column: str, shown: int, random: np.random.Generator) -> list[_Group]:
    """Random images for each value of a column, those with most images first; splits are in their order."""
    parts = sorted(table.groupby(column), key=lambda part: -len(part[1]))[:_MOST_GROUPS]
    if column == "split":
        parts.sort(key=lambda part: [*SPLITS, part[0]].index(part[0]))
    found = []
    for name, part in parts:
        rows = part.iloc[np.sort(random.permutation(len(part))[:shown])]
        images, patients = len(part), part["patient_id"].nunique()
        title = f"{images:,} image{'s' * (images != 1)} of {patients:,} patient{'s' * (patients != 1)}"
        found.append(_Group(f"{str(name) or 'not stated'}: {title}", _captioned(rows)))
    return found


def _sources_part(table: pd.DataFrame, report: AuditReport, shown: int, random: np.random.Generator) -> _Part:
    by_source = report.counts["by_source"]
    if len(by_source) < 2:
        names = "".join(by_source)
        return _Part("Sources", text="The data names no sources." if names == "unknown" else f"All are from {names}.")
    classes = list(report.counts["by_class"])
    rows = tuple(
        (name, *(f"{found.get(label, {}).get('images', 0):,}" for label in classes))
        for name, found in by_source.items()
    )
    counts = Table(("source", *classes), rows, "Images of each class by source")
    return _Part("Sources", _groups(table, "source", shown, random), [counts])


def _duplicates_part(table: pd.DataFrame, report: AuditReport, most: int) -> _Part:
    copies = duplicate_groups(report)
    equal = {frozenset(group) for group in report.exact_duplicates}
    found = []
    for group in copies[:most]:
        rows = table[table["path"].isin(group)]
        splits, labels, patients = (list(dict.fromkeys(rows[name])) for name in ("split", "label", "patient_id"))
        same = " with the same pixels" * (frozenset(group) in equal)
        parts = [f"{len(group)} images{same}" if len(group) > 1 else "listed more than once"]
        parts += [f"in {' and '.join(splits)}"] * (len(splits) > 1)
        parts += [f"labels {' and '.join(labels)}"] * (len(labels) > 1)
        parts += [f"{len(patients)} patients"] * (len(patients) > 1)
        shown = _captioned(rows.head(_MOST_COPIES))
        found.append(_Group(", ".join(parts), shown, len(splits) > 1 or len(labels) > 1))
    first = f"{len(found):,} of {len(copies):,} groups. " if len(found) < len(copies) else ""
    return _Part("Suspected duplicates", found, text=f"{first or 'None. ' * (not copies)}{report.limits()}")


def _rejected(unreadable: pd.DataFrame, report: AuditReport, records: pd.DataFrame) -> pd.DataFrame:
    """File, path and reason of the images that cannot be read, and of the files that the data set leaves out."""
    listed = unreadable[["file", "path"]].assign(reason=unreadable["path"].map(report.unreadable))
    return pd.concat([listed, rejected_files(records)], ignore_index=True).drop_duplicates("file")


def _rejected_part(rejected: pd.DataFrame, shown: int) -> _Part:
    if rejected.empty:
        return _Part("Rejected files", text="None.")
    counts = rejected["reason"].map(printable).value_counts()
    found = []
    for reason in counts.index[:_MOST_GROUPS]:
        rows = rejected[rejected["reason"].map(printable) == reason].head(shown)
        images = [(file, printable(path)) for file, path in zip(rows["file"], rows["path"], strict=True)]
        found.append(_Group(f"{reason}: {counts[reason]:,}", images))
    table = Table(("reason", "files"), tuple((str(reason), f"{count:,}") for reason, count in counts.items()))
    return _Part("Rejected files", found, [table])


def _captioned(rows: pd.DataFrame) -> list[tuple[str, str]]:
    """File and caption of each row; the caption has label and split, patient and source, and path."""
    found = []
    for row in rows.to_dict("records"):
        patient = f"patient {row['patient_id']}" if row["patient_id"] != row["path"] else ""
        lines = ((row["label"], row["split"]), (patient, row["source"]), (row["path"],))
        texts = (", ".join(filter(None, line)) for line in lines)
        found.append((str(row["file"]), "\n".join(filter(None, texts))))
    return found


def _thumbnail(file: str) -> npt.NDArray[np.uint8] | None:
    try:
        return shrink(read_image(file), _SIDE)
    except ImageError:
        return None
