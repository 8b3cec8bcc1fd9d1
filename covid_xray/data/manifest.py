"""The table of images that everything else works on, read from CSV files or from class folders.

A table of records has the columns ``path`` (as written, the key of an image), ``file`` (where it lies), ``label``,
``patient_id``, ``source`` and ``split`` (``train``, ``val``, ``test`` or empty), all text, and whatever else the
manifest brings along.
"""

import os
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from covid_xray.data.images import EXTENSIONS
from covid_xray.errors import UserError

SPLIT_NAMES = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test", "": ""}


def read_manifest(manifest: str | Path | Sequence[str | Path]) -> pd.DataFrame:
    """Read one or several manifests; relative paths count from the manifest's folder.

    Args:
        manifest: CSV file or files with the columns ``path``, ``label``, and optionally ``patient_id``, ``source``
            and ``split``. An image without a patient id is its own patient.

    Raises:
        UserError: Naming file, row and column, if a manifest cannot be read, a value is missing or unknown, a path is
            listed twice, or an image does not exist.
    """
    files = [manifest] if isinstance(manifest, str | Path) else list(manifest)
    if not files:
        raise UserError("data.manifest names no file")
    tables = [_read_csv(Path(file)) for file in files]
    if len(tables) > 1:
        for file, table in zip(files, tables, strict=True):
            table["path"] = [os.path.join(Path(file).parent.name, path) for path in table["path"]]  # noqa: PTH118
    return pd.concat(tables, ignore_index=True).fillna("")


def read_folder(root: str | Path, patient_regex: str | None = None) -> pd.DataFrame:
    """List the images of ``<class>/`` folders, or of ``train|val|test/<class>/`` folders.

    Args:
        root: The folder that holds them.
        patient_regex: Regular expression with one group that finds the patient's id in a file name. Without it, and
            where it finds nothing, every image is its own patient.

    Raises:
        UserError: If the folder is missing, holds no images, or the expression is no good.
    """
    root = Path(root)
    if not root.is_dir():
        raise UserError(f"data.root={root} is no folder")
    pattern = _compile(patient_regex)
    given = [name for name in sorted(SPLIT_NAMES) if name and (root / name).is_dir()]
    rows = []
    for split in given or [""]:
        for folder in sorted(path for path in (root / split).iterdir() if path.is_dir()):
            for file in sorted(path for path in folder.rglob("*") if path.suffix.lower() in EXTENSIONS):
                relative = file.relative_to(root).as_posix()
                match = pattern.search(file.name) if pattern else None
                patient = match[1] if match and match[1] else relative
                rows.append((relative, str(file.absolute()), folder.name, patient, "", SPLIT_NAMES[split]))
    if not rows:
        raise UserError(f"data.root={root} holds no images; expected <class>/ or train|val|test/<class>/ folders")
    return pd.DataFrame(rows, columns=["path", "file", "label", "patient_id", "source", "split"])


def _read_csv(file: Path) -> pd.DataFrame:
    if not file.is_file():
        raise UserError(f"manifest {file} does not exist")
    try:
        table = pd.read_csv(file, dtype=str, keep_default_na=False, encoding="utf-8-sig", on_bad_lines="error")
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError, OSError) as error:
        raise UserError(f"manifest {file} cannot be read as CSV ({str(error).strip()})") from None
    for column in ("path", "label"):
        if column not in table:
            raise UserError(f"manifest {file} has no column {column!r}; it has {', '.join(map(str, table.columns))}")
    if table.empty:
        raise UserError(f"manifest {file} lists no images")
    for column in ("patient_id", "source", "split"):
        if column not in table:
            table[column] = ""
    for column in ("path", "label"):
        _refuse(file, table, table[column].str.strip() == "", f"has no {column}")
    _refuse(file, table, table["path"].duplicated(), "lists a path a second time")
    table["split"] = table["split"].str.strip().str.lower()
    _refuse(file, table, ~table["split"].isin(list(SPLIT_NAMES)), "has a split other than train, val or test")
    table["split"] = table["split"].map(SPLIT_NAMES)
    table["patient_id"] = table["patient_id"].where(table["patient_id"] != "", table["path"])
    folder = file.parent.absolute()
    table["file"] = [os.path.join(folder, path) for path in table["path"]]  # noqa: PTH118 a million rows: Path is slow
    exists = np.fromiter(map(os.path.isfile, table["file"]), dtype=bool, count=len(table))
    _refuse(file, table, pd.Series(~exists), "names an image that does not exist")
    return table


def _refuse(file: Path, table: pd.DataFrame, bad: pd.Series, what: str) -> None:
    if bad.any():
        first = int(np.flatnonzero(bad.to_numpy())[0])
        more = f" (and {int(bad.sum()) - 1} rows more)" if bad.sum() > 1 else ""
        path = table["path"].iloc[first]
        raise UserError(f"manifest {file} row {first + 2} {what}: {path!r}{more}; mend the manifest")


def _compile(regex: str | None) -> re.Pattern[str] | None:
    if regex is None:
        return None
    try:
        pattern = re.compile(regex)
    except (re.error, TypeError) as error:
        raise UserError(f"data.patient_regex={regex!r} is no regular expression ({error})") from None
    if pattern.groups != 1:
        raise UserError(f"data.patient_regex={regex!r} must have exactly one group, which holds the patient's id")
    return pattern
