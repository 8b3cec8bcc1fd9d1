"""From a downloaded collection to a checked manifest; nothing is downloaded, the originals are not changed."""

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from covid_xray.data.folder import compile_patient_regex
from covid_xray.data.images.grey import ImageError
from covid_xray.data.images.read import read_image
from covid_xray.data.importers import importer
from covid_xray.data.parallel import map_files
from covid_xray.errors import UserError
from covid_xray.files import write_atomically

COLUMNS = ("path", "label", "patient_id", "source", "view", "sha256", "width", "height")
_TEXT = ("path", "label", "patient_id", "source", "view", "split", "row", "reason")


class Check(NamedTuple):
    """What is known of an image file; ``reason`` says why it cannot be used, or is empty."""

    sha256: str = ""
    width: int = 0
    height: int = 0
    reason: str = ""


@dataclass(frozen=True)
class Prepared:
    """A collection, ready.

    Attributes:
        accepted: The manifest's rows.
        rejected: Path, label, row and reason of every image that is left out.
        manifest: Where the manifest was written.
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
    workers: int | None = None,
) -> Prepared:
    """Read a collection, check every image, and write ``manifest.csv`` and ``rejected.csv``.

    Args:
        dataset: Name of an importer; see `covid_xray.data.importers`.
        source: The collection's folder.
        output: Folder for the two files; paths in the manifest count from it.
        splits: ``given`` keeps a split that the publisher made, ``none`` leaves it out.
        views: Views to keep, such as PA and AP; None keeps all.
        patient_regex: Regular expression with one group that finds the patient in a file name; where it finds nothing,
            the importer's patient stays.
        min_size: Least number of pixels of the shorter side.
        workers: Number of processes; None for what the machine has.

    Raises:
        UserError: If a setting is no good, the source is not laid out as expected, or no image can be used.
    """
    read, pattern = importer(dataset), compile_patient_regex(patient_regex)
    if splits not in ("given", "none"):
        raise UserError(f"splits must be given or none, not {splits!r}")
    if isinstance(min_size, bool) or not isinstance(min_size, int) or min_size < 1:
        raise UserError(f"min_size must be a whole number of at least 1, not {min_size!r}")
    if not source.is_dir():
        raise UserError(f"source={source} is no folder; give the one that holds the {dataset} collection")
    table = _complete(read(source), source)
    if splits == "none":
        table["split"] = ""
    if pattern:
        found = table["path"].map(lambda path: match[1] if (match := pattern.search(Path(path).name)) else "")
        table["patient_id"] = found.where(found.fillna("") != "", table["patient_id"])
    table = _check(_refuse_rows(table, source, views), min_size, workers)
    table["path"] = _relative(table["file"].tolist(), output)
    good = table["reason"] == ""
    table["patient_id"] = table["patient_id"].where(table["patient_id"] != "", table["path"])
    extra = [name for name in table if name not in (*COLUMNS, "file", "reason", "row")]
    accepted = table.loc[good, [*COLUMNS, *(name for name in extra if name != "split" or table["split"].any())]]
    rejected = table.loc[~good, ["path", "label", "row", "reason"]]
    _write(output, {"rejected.csv": rejected})
    if accepted.empty:
        first = f"; the first: {rejected['path'].iloc[0]}: {rejected['reason'].iloc[0]}" if len(rejected) else ""
        raise UserError(
            f"no image of {source} can be used ({len(rejected)} rejected, see {output / 'rejected.csv'}{first})"
        )
    _write(output, {"manifest.csv": accepted.sort_values("path", kind="stable")})
    return Prepared(accepted, rejected, output / "manifest.csv")


def check_image(file: str) -> Check:
    """Decode an image and digest its file."""
    try:
        height, width = read_image(file).shape
        with open(file, "rb") as content:  # noqa: PTH123
            return Check(hashlib.file_digest(content, "sha256").hexdigest(), width, height)
    except ImageError as error:
        return Check(reason=error.reason)
    except OSError as error:
        return Check(reason=error.strerror or str(error))


def _complete(table: pd.DataFrame, source: Path) -> pd.DataFrame:
    """Add the columns that the importer left out, and where each file lies."""
    table = table.reset_index(drop=True)
    for column in _TEXT:
        table[column] = table[column].fillna("").astype(str) if column in table else ""
    root = os.path.abspath(source)  # noqa: PTH100
    return table.assign(file=[os.path.normpath(os.path.join(root, path)) for path in table["path"]])  # noqa: PTH118


def _refuse_rows(table: pd.DataFrame, source: Path, views: Sequence[str] | None) -> pd.DataFrame:
    """Say what is wrong with rows before any image is opened; the first reason counts."""
    root = os.path.join(os.path.abspath(source), "")  # noqa: PTH100, PTH118
    reasons = [
        (table["path"].str.strip() == "", "it has no path"),
        (~table["file"].str.startswith(root), "it lies outside the source"),
        (table["label"].str.strip() == "", "it has no label, or one that is not known"),
        (table["file"].duplicated() & (table["reason"] == ""), "it is listed a second time"),
    ]
    if views is not None:
        names = [str(view).lower() for view in views]
        reasons.append((~table["view"].str.lower().isin(names), f"its view is none of {', '.join(map(str, views))}"))
    reason = table["reason"].copy()
    for bad, text in reasons:
        reason = reason.mask((reason == "") & bad, text)
    return table.assign(reason=reason)


def _check(table: pd.DataFrame, min_size: int, workers: int | None) -> pd.DataFrame:
    """Open every image that is still in."""
    rows = table.index[table["reason"] == ""]
    checks = list(map_files(check_image, table.loc[rows, "file"].tolist(), "checking images", workers))
    small = f"it is smaller than min_size={min_size} pixels"
    checks = [
        check._replace(reason=small) if not check.reason and min(check.width, check.height) < min_size else check
        for check in checks
    ]
    found = pd.DataFrame(checks, index=rows, columns=list(Check._fields)).reindex(table.index)
    reason = table["reason"].where(table["reason"] != "", found["reason"])
    return table.assign(sha256=found["sha256"], width=found["width"], height=found["height"], reason=reason)


def _relative(files: list[str], output: Path) -> list[str]:
    """Paths from the output's folder, so that both can be moved together; absolute on another drive."""
    folder = os.path.realpath(output)
    # Without links on the way, since ".." after a link leads elsewhere; not of the file, which may be a link itself.
    places = {place: os.path.realpath(place) for place in {os.path.dirname(file) for file in files}}  # noqa: PTH120
    real = [os.path.join(places[os.path.dirname(file)], os.path.basename(file)) for file in files]  # noqa: PTH118, PTH119, PTH120
    try:
        return [Path(os.path.relpath(file, folder)).as_posix() for file in real]
    except ValueError:
        return real


def _write(output: Path, tables: dict[str, pd.DataFrame]) -> None:
    """Write tables so that a kill leaves the old or the new ones."""
    try:
        output.mkdir(parents=True, exist_ok=True)
        for name, table in tables.items():
            whole = {column: "Int64" for column in ("width", "height") if column in table}
            write_atomically(output / name, table.astype(whole).to_csv(index=False))
    except OSError as error:
        raise UserError(f"output={output} cannot be written: {error.strerror or error}") from None
