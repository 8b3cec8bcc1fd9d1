"""Turns a downloaded collection into a checked manifest, without changing the collection."""

import contextlib
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from covid_xray.data.audit.fingerprints import fingerprint_files
from covid_xray.data.cache import Spool, open_store
from covid_xray.data.folder import compile_patient_regex, find_patients, list_folder
from covid_xray.data.importers import default_classes, importer, locate
from covid_xray.data.importers.findings import check_findings, label_findings
from covid_xray.errors import CONTROL, UserError
from covid_xray.files import original_text, spreadsheet_text, write_atomically, write_failure

REJECTED = "rejected.csv"
_COLUMNS = ("path", "label", "patient_id", "source", "view", "sha256", "width", "height")
# Beginnings of the reasons of what is left out on purpose.
_ON_PURPOSE = (
    *("its view is not one of", "it is a CT", "it is hidden", "it contains ", "it is a link to a folder"),
    *("its findings are ", "its projection is EXCLUDE"),
)
_TEXT = ("path", "label", "patient_id", "source", "view", "split", "row", "reason")


class Check(NamedTuple):
    """Digests and size of an image; ``reason`` states why it is rejected, or is empty."""

    sha256: str = ""
    width: int = 0
    height: int = 0
    reason: str = ""
    pixels: str = ""


@dataclass(frozen=True)
class Prepared:
    """Result of `prepare`.

    Attributes:
        accepted: Rows of the manifest.
        rejected: Path, label, row and reason of every rejected image.
        manifest: Path of the manifest.
    """

    accepted: pd.DataFrame
    rejected: pd.DataFrame
    manifest: Path


def prepare(
    dataset: str,
    source: Path,
    output: Path,
    splits: str = "given",
    views: Sequence[str] | None = None,
    patient_regex: str | None = None,
    min_size: int = 32,
    max_rejected: float = 0.05,
    workers: int | None = None,
    lists_only: bool = False,
    findings: Mapping[str, str] | None = None,
    uncertain: str = "reject",
    audit_cache: Path | None = None,
    cache: Path | None = None,
    image_size: int | None = None,
) -> Prepared:
    """Read a collection, check every image, and write ``manifest.csv`` and ``rejected.csv``.

    Args:
        dataset: Name of an importer; see `covid_xray.data.importers`.
        source: Folder of the collection.
        output: Folder for the two files; paths in the manifest are relative to it.
        splits: ``given`` keeps the publisher's split, ``none`` removes it.
        views: Views to keep, such as PA and AP; None keeps all.
        patient_regex: See `covid_xray.data.folder.find_patients`. Where it does not match, the importer's patient is
            kept.
        min_size: Minimum number of pixels of the shorter side.
        max_rejected: Maximum share of the images that may be rejected. Those that are left out on purpose do not count:
            other views, CT, hidden files, folders of masks, and findings without one class.
        workers: Number of threads; see `covid_xray.data.parallel.map_files`.
        lists_only: Make the manifest from the publisher's lists, without the images: for an audit of the lists.
        findings: Class of each finding, for collections with several findings per image; see
            `covid_xray.data.importers.findings`. None for the importer's own.
        uncertain: What an uncertain finding counts as: ``reject``, ``positive`` or ``negative``.
        audit_cache: Folder that keeps what an audit needs of every image, so that none is decoded again; an interrupted
            call also continues there. None: keep nothing.
        cache: Folder of resized images, so that a training does not decode them again; see `covid_xray.data.cache`.
            None: make none.
        image_size: Side of the resized images: the largest of the training. Needed with ``cache``.

    Raises:
        UserError: If a setting is not valid, the source does not have the expected layout, or more images are rejected
            than ``max_rejected`` allows; then ``rejected.csv`` is written, and no manifest.
    """
    read = importer(dataset)
    compile_patient_regex(patient_regex)
    if splits not in ("given", "none"):
        raise UserError(f"splits must be given or none, not {splits!r}")
    if isinstance(min_size, bool) or not isinstance(min_size, int) or min_size < 1:
        raise UserError(f"min_size must be a whole number of at least 1, not {min_size!r}")
    if isinstance(max_rejected, bool) or not isinstance(max_rejected, int | float) or not 0 <= max_rejected <= 1:
        raise UserError(f"max_rejected must be from 0 to 1, not {max_rejected!r}")
    if not isinstance(lists_only, bool):
        raise UserError(f"lists_only must be true or false, not {lists_only!r}")
    if cache is not None and (isinstance(image_size, bool) or not isinstance(image_size, int) or image_size < 1):
        raise UserError(f"cache needs image_size, a whole number of at least 1, not {image_size!r}")
    if not source.is_dir():
        raise UserError(f"source={source} is not a folder; give the folder of the {dataset} collection")
    table = read(source)
    if "findings" in table:
        check_findings(table, findings or ())
        table = label_findings(table, findings or default_classes(dataset), uncertain)
    elif findings is not None:
        raise UserError(f"dataset={dataset} has one label per image: leave findings out, and use data.class_map=...")
    table = _complete(table, source)
    if splits == "none":
        table["split"] = ""
    if patient_regex is not None:
        listed = table["reason"] == ""
        found = find_patients(table["path"][listed], patient_regex, table["patient_id"][listed], f"source={source}")
        table["patient_id"] = found.reindex(table.index).fillna(table["patient_id"])
    table = _reject_rows(table, source, views)
    with contextlib.ExitStack() as stack:
        spool = None if cache is None or lists_only else stack.enter_context(Spool(cache, image_size or 0))
        table = table if lists_only else _check(table, min_size, workers, audit_cache, spool)
        if cache is not None and spool is not None and (usable := table[table["reason"] == ""]).size:
            open_store(cache, usable["file"].tolist(), usable["pixels"].to_numpy("S32"), spool.side, spool.get)
    table["path"] = _relative(table["file"].tolist(), output)
    good = table["reason"] == ""
    table["patient_id"] = table["patient_id"].where(table["patient_id"] != "", table["path"])
    extra = [name for name in table if name not in (*_COLUMNS, "file", "reason", "row", "pixels")]
    columns = [name for name in _COLUMNS if name in table]
    accepted = table.loc[good, [*columns, *(name for name in extra if name != "split" or table["split"].any())]]
    rejected = table.loc[~good, ["path", "label", "row", "reason"]]
    _write(output / REJECTED, rejected)
    if accepted.empty:
        first = f"; the first: {rejected['path'].iloc[0]}: {rejected['reason'].iloc[0]}" if len(rejected) else ""
        raise UserError(
            f"source={source} has no usable images ({len(rejected)} rejected, see {output / REJECTED}{first})"
        )
    _refuse_rejected(dataset, rejected, len(table), max_rejected, output)
    _write(output / "manifest.csv", accepted.sort_values("path", kind="stable"))
    return Prepared(accepted, rejected, output / "manifest.csv")


def _refuse_rejected(dataset: str, rejected: pd.DataFrame, images: int, max_rejected: float, output: Path) -> None:
    on_purpose = rejected["reason"].str.startswith(_ON_PURPOSE)
    lost, images = rejected["reason"][~on_purpose], images - int(on_purpose.sum())
    if len(lost) > max_rejected * images:
        reasons = lost.value_counts()
        allow = math.ceil(len(lost) / images * 100) / 100
        raise UserError(
            f"dataset={dataset}: {len(lost)} of {images} images ({len(lost) / images:.1%}) are rejected, more than "
            f"max_rejected={max_rejected}; most often ({reasons.iloc[0]} times) because {reasons.index[0]}; see "
            f"{output / REJECTED}, and complete the source, or accept the loss with max_rejected={allow}"
        )


def rejected_files(records: pd.DataFrame) -> pd.DataFrame:
    """Files that a data set leaves out, with the reason.

    For class folders, these are the files that `covid_xray.data.folder.list_folder` leaves out. For manifests, they are
    listed in ``rejected.csv`` beside each manifest, if `prepare` wrote one.

    Args:
        records: A table from `covid_xray.data.folder.read_folder` or `covid_xray.data.manifest.read_manifest`; other
            tables leave out nothing.

    Returns:
        Columns ``file``, ``path`` and ``reason``.
    """
    reader = records.attrs.get("reader") or {}
    rows: list[tuple[str, str, str]] = []
    if reader.get("_target_") == "covid_xray.data.folder.read_folder":
        root = os.path.abspath(reader["root"])  # noqa: PTH100
        left_out = list_folder(root)[1]
        rows += [(os.path.join(root, path), path, reason) for path, reason in left_out.items()]  # noqa: PTH118
    if reader.get("_target_") == "covid_xray.data.manifest.read_manifest":
        manifests = reader["manifest"] if isinstance(reader["manifest"], list) else [reader["manifest"]]
        for folder in dict.fromkeys(os.path.dirname(os.path.abspath(manifest)) for manifest in manifests):  # noqa: PTH100, PTH120
            rows += [(os.path.join(folder, path), path, reason) for path, reason in _read_rejected(folder)]  # noqa: PTH118
    return pd.DataFrame(rows, columns=["file", "path", "reason"], dtype=object)


def _read_rejected(folder: str) -> list[tuple[str, str]]:
    """Path and reason of each row of ``rejected.csv``; none if there is no such file, or if it is another table."""
    try:
        table = pd.read_csv(Path(folder) / REJECTED, dtype=str, keep_default_na=False).map(original_text)
        return list(zip(table["path"], table["reason"], strict=True))
    except (OSError, ValueError, KeyError):
        return []


def _checks(files: list[str], workers: int | None, audit_cache: Path | None, spool: Spool | None) -> list[Check]:
    """Read every image once, unless the cache knows it: digests of its file and of its pixels, and its size."""
    found = fingerprint_files(files, audit_cache, workers, None if spool is None else spool.add)
    return [
        Check(sha256.decode(), int(width), int(height), reason.decode("utf-8", "ignore"), pixels.decode())
        for sha256, width, height, reason, pixels in zip(
            found.sha256, found.width, found.height, found.reason, found.pixels, strict=True
        )
    ]


def _complete(table: pd.DataFrame, source: Path) -> pd.DataFrame:
    """Add the columns that the importer does not set, and the absolute path of each file."""
    table = table.reset_index(drop=True)
    for column in _TEXT:
        table[column] = table[column].fillna("").astype(str) if column in table else ""
    usable = table["reason"] == ""
    table.loc[usable, "path"] = locate(table.loc[usable, "path"].tolist(), source)
    root = os.path.abspath(source)  # noqa: PTH100
    return table.assign(file=[os.path.normpath(os.path.join(root, path)) for path in table["path"]])  # noqa: PTH118


def _reject_rows(table: pd.DataFrame, source: Path, views: Sequence[str] | None) -> pd.DataFrame:
    """Set the reason of rows that are rejected without opening the image; the first reason is kept."""
    root = os.path.join(os.path.abspath(source), "")  # noqa: PTH100, PTH118
    reasons = [
        (table["path"].str.strip() == "", "it has no path"),
        (~table["file"].str.startswith(root), "it is outside the source"),
        (
            table[["path", "label", "patient_id"]].apply(lambda column: column.str.contains(CONTROL)).any(axis=1),
            "its path, label or patient has a control character or broken text",
        ),
        (table["label"].str.strip() == "", "its label is missing or unknown"),
        (table["file"].duplicated() & (table["reason"] == ""), "it is listed a second time"),
    ]
    if views is not None:
        names = [str(view).lower() for view in views]
        reasons.append((~table["view"].str.lower().isin(names), f"its view is not one of {', '.join(map(str, views))}"))
    reason = table["reason"].copy()
    for bad, text in reasons:
        reason = reason.mask((reason == "") & bad, text)
    return table.assign(reason=reason)


def _check(
    table: pd.DataFrame, min_size: int, workers: int | None, audit_cache: Path | None, spool: Spool | None
) -> pd.DataFrame:
    """Open every image that is not rejected yet."""
    rows = table.index[table["reason"] == ""]
    checks = _checks(table.loc[rows, "file"].tolist(), workers, audit_cache, spool)
    small = f"it is smaller than min_size={min_size} pixels"
    checks = [
        check._replace(reason=small) if not check.reason and min(check.width, check.height) < min_size else check
        for check in checks
    ]
    found = pd.DataFrame(checks, index=rows, columns=list(Check._fields)).reindex(table.index)
    reason = table["reason"].where(table["reason"] != "", found["reason"])
    return table.assign(**found[["sha256", "width", "height", "pixels"]], reason=reason)


def _relative(files: list[str], output: Path) -> list[str]:
    """Return paths relative to the output folder, so that both can be moved together; absolute on another drive."""
    folder = os.path.realpath(output)
    # Links to folders are resolved, because ".." after a link leads to another folder. Links to files are kept.
    places = {place: os.path.realpath(place) for place in {os.path.dirname(file) for file in files}}  # noqa: PTH120
    real = [os.path.join(places[os.path.dirname(file)], os.path.basename(file)) for file in files]  # noqa: PTH118, PTH119, PTH120
    try:
        return [Path(os.path.relpath(file, folder)).as_posix() for file in real]
    except ValueError:
        return real


def _write(file: Path, table: pd.DataFrame) -> None:
    integers = {column: "Int64" for column in ("width", "height") if column in table}
    texts = table.drop(columns=list(integers)).map(spreadsheet_text)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(file, table.astype(integers).assign(**texts).to_csv(index=False))
    except OSError as error:
        raise write_failure(file, error) from None
