"""The table of images that everything else works on, read from CSV files or from class folders.

A table of records has the columns ``path`` (as written, the key of an image), ``file`` (where it lies), ``label``,
``patient_id``, ``source`` and ``split`` (``train``, ``val``, ``test`` or empty), all text, and whatever else the
manifest brings along.
"""

import csv
import os
import re
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from covid_xray.data.images import EXTENSIONS
from covid_xray.errors import UserError

SPLIT_NAMES = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test", "": ""}
_MISSING = ("nan", "na", "n/a", "#n/a", "<na>", "null")  # what programs write for nothing


def read_manifest(
    manifest: str | Path | Sequence[str | Path],
    class_map: Mapping[str, str | None] | None = None,
    classes: Sequence[str] | None = None,
) -> pd.DataFrame:
    """Read one or several manifests; relative paths count from the manifest's folder.

    Args:
        manifest: CSV file or files with the columns ``path``, ``label``, and optionally ``patient_id``, ``source``
            and ``split``. An image without a patient id is its own patient. Of several, the paths are told apart by
            the name of the manifest's folder.
        class_map: New name by old name of a class; None leaves its images out, and prints how many. Others stay.
        classes: The classes that may occur after that; None: any.

    Raises:
        UserError: Naming file, row and column, if a manifest cannot be read, a column is missing or there twice, a
            value is missing or unknown, an image is listed twice, or does not exist.
    """
    files = [manifest] if isinstance(manifest, str | Path) else list(manifest) if _is_list(manifest) else []
    if not files or not all(isinstance(file, str | Path) for file in files):
        raise UserError(f"data.manifest must be a CSV file or a list of them, not {manifest!r}")
    tables = [_read_csv(Path(file)) for file in files]
    if len(tables) > 1:
        for prefix, table in zip(_prefixes(files), tables, strict=True):
            table["path"] = [os.path.join(prefix, path) for path in table["path"]]  # noqa: PTH118
    table = pd.concat(tables, ignore_index=True).fillna("")
    if (again := _twice(table)).any():
        raise UserError(
            f"data.manifest: {table['file'][again].iloc[0]} is listed in two manifests; leave it out of one"
        )
    table = map_classes(table, class_map) if class_map else table
    if classes is not None and not (known := table["label"].isin(list(classes))).all():
        row = table[~known].iloc[0]
        raise UserError(f"{row['path']} has the unknown label {row['label']!r}; known are {', '.join(classes)}")
    return table


def map_classes(table: pd.DataFrame, class_map: Mapping[str, str | None]) -> pd.DataFrame:
    """Rename classes; leave out those that are mapped to None, and print how many images that are.

    Raises:
        UserError: If a name is not that of a class, or nothing is left.
    """
    present = sorted(table["label"].unique())
    if unknown := [name for name in class_map if name not in present]:
        raise UserError(f"data.class_map: no image has the label {unknown[0]!r}; there are {', '.join(present)}")
    for name, new in class_map.items():
        if new is not None and (not isinstance(new, str) or not new.strip()):
            raise UserError(f"data.class_map.{name} must be the name of a class, or null to leave it out, not {new!r}")
    dropped = table["label"].isin([name for name, new in class_map.items() if new is None])
    for left_out, count in table["label"][dropped].value_counts().items():
        print(f"data.class_map: {count} images of class {left_out} are left out")
    kept = table[~dropped].reset_index(drop=True)
    if kept.empty:
        raise UserError("data.class_map leaves no images; map at least two classes to a name")
    return kept.assign(label=kept["label"].map(lambda label: class_map.get(label) or label))


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
    pattern = compile_patient_regex(patient_regex)
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


def compile_patient_regex(regex: str | None) -> re.Pattern[str] | None:
    """Check and compile ``data.patient_regex``.

    Raises:
        UserError: If it is no regular expression with exactly one group.
    """
    if regex is None:
        return None
    try:
        pattern = re.compile(regex)
    except (re.error, TypeError) as error:
        raise UserError(f"data.patient_regex={regex!r} is no regular expression ({error})") from None
    if pattern.groups != 1:
        raise UserError(f"data.patient_regex={regex!r} must have exactly one group, which holds the patient's id")
    return pattern


def _is_list(value: object) -> bool:
    return isinstance(value, Sequence)


def _prefixes(files: Sequence[str | Path]) -> list[str]:
    """A short name for each manifest's folder, the same for the same folder only."""
    folders = [Path(file).absolute().parent for file in files]
    names: dict[Path, str] = {}
    for folder in folders:
        taken = sum(other.name == folder.name for other in names if other != folder)
        names.setdefault(folder, f"{folder.name}-{taken + 1}" if taken else folder.name)
    return [names[folder] for folder in folders]


def _read_csv(file: Path) -> pd.DataFrame:
    table = _parse(file)
    for column in ("path", "label"):
        if column not in table:
            raise UserError(
                f"manifest {file} has no column {column!r}, separated by commas; it has {', '.join(table.columns)}"
            )
    if table.empty:
        raise UserError(f"manifest {file} lists no images")
    table = table.fillna("").reset_index(drop=True)
    for column in ("patient_id", "source", "split"):
        table[column] = table[column].str.strip() if column in table else ""
    table["label"] = table["label"].str.strip()
    for column in ("path", "label", "patient_id", "source", "split"):
        table[column] = table[column].mask(table[column].str.lower().isin(_MISSING), "")
    for column in ("path", "label"):
        _refuse(file, table, table[column].str.strip() == "", f"has no {column}")
    table["split"] = table["split"].str.lower()
    _refuse(file, table, ~table["split"].isin(list(SPLIT_NAMES)), "has a split other than train, val or test")
    table["split"] = table["split"].map(SPLIT_NAMES)
    table["patient_id"] = table["patient_id"].where(table["patient_id"] != "", table["path"])
    # Not pathlib: a million rows.
    folder = os.path.abspath(file.parent)  # noqa: PTH100
    table["file"] = [os.path.join(folder, path) for path in table["path"]]  # noqa: PTH118
    _refuse(file, table, _twice(table), "lists an image a second time")
    exists = np.fromiter(map(_is_file, table["file"]), dtype=bool, count=len(table))
    _refuse(file, table, pd.Series(~exists), "names an image that does not exist")
    return table


def _parse(file: Path) -> pd.DataFrame:
    try:
        if not file.is_file():
            raise UserError(f"manifest {file} does not exist")
        with file.open(encoding="utf-8-sig", newline="") as lines:
            header = [name.strip() for name in next(csv.reader(lines), [])]
        if twice := [name for name in header if header.count(name) > 1]:
            raise UserError(f"manifest {file} has the column {twice[0]!r} twice; remove one")
        with warnings.catch_warnings():
            warnings.simplefilter("error", pd.errors.ParserWarning)  # of rows longer than the header
            return pd.read_csv(
                file, dtype=str, keep_default_na=False, encoding="utf-8-sig", header=0, names=header, index_col=False
            )
    except UserError:
        raise
    except UnicodeError:
        raise UserError(f"manifest {file} is not UTF-8 text; save it as CSV in UTF-8") from None
    except pd.errors.ParserWarning:
        raise UserError(f"manifest {file} has rows with more fields than its header; mend the manifest") from None
    except (ValueError, OSError, csv.Error) as error:
        raise UserError(f"manifest {file} cannot be read as CSV ({' '.join(str(error).split())})") from None


def _twice(table: pd.DataFrame) -> pd.Series:
    """Whether an image is listed before, in whatever way its path is written."""
    return table["file"].map(os.path.normpath).duplicated()


def _is_file(path: str) -> bool:
    try:
        return os.path.isfile(path)  # noqa: PTH113
    except ValueError:  # a null byte in the name
        return False


def _refuse(file: Path, table: pd.DataFrame, bad: pd.Series, what: str) -> None:
    if bad.any():
        first = int(np.flatnonzero(bad.to_numpy())[0])
        more = f" (and {int(bad.sum()) - 1} rows more)" if bad.sum() > 1 else ""
        raise UserError(
            f"manifest {file} row {first + 2} {what}: {table['path'].iloc[first]!r}{more}; mend the manifest"
        )
