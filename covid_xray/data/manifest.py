"""Reads manifests: CSV files that list images with their labels."""

import csv
import os
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from covid_xray.data.records import (
    SPLIT_NAMES,
    check_class_names,
    check_patients,
    check_rows,
    check_text,
    class_map_text,
    map_classes,
    plain_patient,
    standard_names,
)
from covid_xray.errors import UserError
from covid_xray.files import original_text

_MISSING = ("nan", "na", "n/a", "#n/a", "<na>", "null")  # what programs write for a missing value
_RESERVED = ("file", "group", "position", "row")  # columns that this package adds


def read_manifest(
    manifest: str | Path | Sequence[str | Path],
    class_map: Mapping[str, str | None] | None = None,
    classes: Sequence[str] | None = None,
    same_patients: bool = False,
    images: bool = True,
) -> pd.DataFrame:
    """Read one or several manifests into records.

    Args:
        manifest: CSV file or files with the columns ``path`` (relative to the folder of the manifest, or absolute) and
            ``label``, and optionally ``patient_id``, ``source`` and ``split``. An image without a patient id is its own
            patient. Other columns are kept; ``file``, ``group``, ``position`` and ``row`` get the suffix ``_given``.
            With several manifests, each path is prefixed with the name of its manifest's folder.
            An apostrophe before text that a spreadsheet would run as a formula, as `prepare` writes it, is left out.
        class_map: See `covid_xray.data.records.map_classes`.
        classes: Allowed classes, after ``class_map``; None allows any.
        same_patients: Whether an id that is in manifests of several folders is one patient. By default it is another
            patient in each folder: the name of the folder is put before such an id, and their number is printed.
        images: Whether the images must exist; False is for an audit of the table alone.

    Raises:
        UserError: Naming file, row and column, if a manifest cannot be read, a column is missing or there twice, a
            value is missing or unknown, an image is listed twice or does not exist, or two class names or patient ids
            differ only in their spelling (`covid_xray.data.records.check_class_names`, `check_patients`).
    """
    one = manifest if isinstance(manifest, str | Path) else None
    files = [one] if one is not None else list(manifest) if isinstance(manifest, Sequence) else []
    if not files or not all(isinstance(file, str | Path) for file in files):
        raise UserError(f"data.manifest must be a CSV file or a list of them, not {manifest!r}")
    if not isinstance(images, bool):
        raise UserError(f"data.images must be true or false, not {images!r}")
    tables = [_read_csv(Path(file), images) for file in files]
    if len(tables) > 1:
        prefixes = _prefixes(files)
        shared = set() if same_patients else _shared_patients(prefixes, tables)
        for prefix, table in zip(prefixes, tables, strict=True):
            own = table["patient_id"] == table["path"]
            table["path"] = [os.path.join(prefix, path) for path in table["path"]]  # noqa: PTH118
            again = table["patient_id"].map(plain_patient).isin(shared) & ~own
            table["patient_id"] = table["patient_id"].mask(again, f"{prefix}/" + table["patient_id"])
            table["patient_id"] = table["patient_id"].mask(own, table["path"])
    table = pd.concat(tables, ignore_index=True).fillna("")
    if (again := _twice(table)).any():
        raise UserError(f"data.manifest: {table['file'][again].iloc[0]} is listed in two manifests; remove it from one")
    table = map_classes(table, class_map) if class_map else table
    names = None if classes is None else [str(name) for name in classes]
    if names is not None and not (known := table["label"].isin(names)).all():
        row = table[~known].iloc[0]
        raise UserError(f"{row['path']} has the unknown label {row['label']!r}; data.classes are {', '.join(names)}")
    check_text(table)
    check_class_names(table["label"])
    check_patients(table)
    table.attrs["reader"] = {
        "_target_": "covid_xray.data.manifest.read_manifest",
        "manifest": [str(file) for file in files] if one is None else str(one),
        "class_map": class_map_text(class_map) if class_map else None,
        "classes": names,
        "same_patients": same_patients,
        "images": images,
    }
    return table


def _prefixes(files: Sequence[str | Path]) -> list[str]:
    """Return a short, unique name of the folder of each manifest."""
    folders = [Path(file).absolute().parent for file in files]
    names: dict[Path, str] = {}
    for folder in folders:
        taken = sum(other.name == folder.name for other in names if other != folder)
        names.setdefault(folder, f"{folder.name}-{taken + 1}" if taken else folder.name)
    return [names[folder] for folder in folders]


def _shared_patients(prefixes: Sequence[str], tables: Sequence[pd.DataFrame]) -> set[str]:
    """Return the plain ids that are in the manifests of several folders, and print their number."""
    folders: dict[str, set[str]] = {}
    examples: dict[str, str] = {}
    for prefix, table in zip(prefixes, tables, strict=True):
        for patient in table["patient_id"][table["patient_id"] != table["path"]].unique():
            plain = plain_patient(patient)
            folders.setdefault(plain, set()).add(prefix)
            examples.setdefault(plain, patient)
    shared = {plain for plain, found in folders.items() if len(found) > 1}
    if shared:
        first = min(shared)
        print(
            f"Warning: {len(shared)} patient ids, such as {examples[first]!r}, are in the manifests of several folders "
            f"({', '.join(sorted(folders[first]))}). They count as different patients; if they are the same, set "
            "data.same_patients=true."
        )
    return shared


def _read_csv(file: Path, images: bool) -> pd.DataFrame:
    """Read and check one manifest; the index holds the row numbers of the file, as a spreadsheet shows them.

    Args:
        file: The manifest.
        images: Whether its images must exist.
    """
    table, name = _parse(file), f"manifest {file}"
    for column in ("path", "label"):
        if column not in table:
            raise UserError(f"{name} has no column {column!r}; it has {', '.join(table.columns)} (separated by commas)")
    if table.empty:
        raise UserError(f"{name} lists no images")
    for column in ("patient_id", "source", "split"):
        table[column] = table[column].str.strip() if column in table else ""
    table["label"] = table["label"].str.strip()
    for column in ("path", "label", "patient_id", "source", "split"):
        table[column] = table[column].mask(table[column].str.lower().isin(_MISSING), "")
    for column in ("path", "label"):
        check_rows(name, table, table[column].str.strip() == "", f"has no {column}")
    table["split"] = table["split"].str.lower()
    check_rows(name, table, ~table["split"].isin(list(SPLIT_NAMES)), "has a split other than train, val or test")
    table["split"] = table["split"].map(SPLIT_NAMES)
    table["patient_id"] = table["patient_id"].where(table["patient_id"] != "", table["path"])
    folder = os.path.abspath(file.parent)  # noqa: PTH100
    table["file"] = [os.path.join(folder, path) for path in table["path"]]  # noqa: PTH118 pathlib is slow on many rows
    check_rows(name, table, _twice(table), "lists an image a second time")
    if images:
        exists = np.fromiter(map(_is_file, table["file"]), dtype=bool, count=len(table))
        check_rows(name, table, pd.Series(~exists, index=table.index), "names an image that does not exist")
    return table


def _parse(file: Path) -> pd.DataFrame:
    try:
        if not file.is_file():
            raise UserError(f"manifest {file} does not exist")
        with file.open(encoding="utf-8-sig", newline="") as lines:
            rows = csv.reader(lines)
            header = [name.strip() for name in next((row for row in rows if any(row)), [])]
            above = rows.line_num  # header and blank lines before it
        names = standard_names(header)
        header = [names.get(name, name) for name in header]
        if not header:
            raise UserError(f"manifest {file} is empty; it must have the columns path and label")
        if twice := [name for name in header if header.count(name) > 1]:
            raise UserError(f"manifest {file} has the column {twice[0]!r} twice; remove one")
        with warnings.catch_warnings():
            warnings.simplefilter("error", pd.errors.ParserWarning)  # about rows longer than the header
            table = pd.read_csv(
                file,
                dtype=str,
                keep_default_na=False,
                encoding="utf-8-sig",
                index_col=False,
                header=None,
                names=header,
                skiprows=above,
                skip_blank_lines=False,
            ).fillna("")
    except UserError:
        raise
    except UnicodeError:
        raise UserError(f"manifest {file} is not UTF-8 text; save it as CSV in UTF-8") from None
    except pd.errors.EmptyDataError:
        return pd.DataFrame(columns=header, dtype=str)
    except pd.errors.ParserWarning:
        raise UserError(f"manifest {file} has rows with more fields than its header; correct them") from None
    except (ValueError, OSError, csv.Error) as error:
        raise UserError(f"manifest {file} cannot be read as CSV ({' '.join(str(error).split())})") from None
    for name in header:
        if table[name].str.startswith("'").any():  # as `prepare` writes what looks like a formula
            table[name] = table[name].map(original_text)
    table.index += above + 1
    not_blank = (table != "").any(axis=1)
    return table.loc[not_blank].rename(columns={name: _free_name(name, header) for name in _RESERVED})


def _free_name(name: str, taken: Sequence[str]) -> str:
    while name in (*_RESERVED, *taken):
        name += "_given"
    return name


def _twice(table: pd.DataFrame) -> pd.Series:
    """Whether an earlier row lists the same file, also if its path is written differently."""
    return table["file"].map(os.path.normpath).duplicated()


def _is_file(path: str) -> bool:
    try:
        return os.path.isfile(path)  # noqa: PTH113
    except ValueError:  # a null byte in the name
        return False
