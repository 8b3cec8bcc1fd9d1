"""The table of images that everything else works on, read from CSV files; for folders see `covid_xray.data.folder`.

A table of records has the columns ``path`` (as written, the key of an image), ``file`` (where it lies), ``label``,
``patient_id``, ``source`` and ``split`` (``train``, ``val``, ``test`` or empty), all text, and whatever else the
manifest brings along. A column of the manifest's own that is called ``file`` becomes ``file_given``.
"""

import csv
import os
import re
import unicodedata
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from covid_xray.errors import UserError

SPLIT_NAMES = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test", "": ""}
_MISSING = ("nan", "na", "n/a", "#n/a", "<na>", "null")  # what programs write for nothing
_RESERVED = ("file", "group", "position", "row")  # names that columns of our own have
_JOINT = re.compile(r"(?<=\w)[\s_-]+(?=\w)")


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
            value is missing or unknown, an image is listed twice, or does not exist, or if two classes are called the
            same but for upper and lower case.
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
    refuse_lookalikes(table["label"])
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


def refuse_lookalikes(labels: pd.Series) -> None:
    """Refuse two classes whose names differ in upper and lower case, spaces, hyphens or underscores only.

    Raises:
        UserError: With both names, and how to make them one.
    """
    seen: dict[str, str] = {}
    for label in sorted(labels.unique()):
        plain = _JOINT.sub("", unicodedata.normalize("NFKC", label).casefold())
        if (other := seen.setdefault(plain, label)) != label:
            raise UserError(
                f"{other!r} and {label!r} would be two classes; make them one with "
                f'\'data.class_map={{"{other}": "{label}"}}\', or give them names that differ by more'
            )


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
    """Read and check one manifest; the index is the number of the row in the file, as a spreadsheet counts."""
    table = _parse(file)
    for column in ("path", "label"):
        if column not in table:
            raise UserError(
                f"manifest {file} has no column {column!r}, separated by commas; it has {', '.join(table.columns)}"
            )
    if table.empty:
        raise UserError(f"manifest {file} lists no images")
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
    _refuse(file, table, pd.Series(~exists, index=table.index), "names an image that does not exist")
    return table


def _parse(file: Path) -> pd.DataFrame:
    try:
        if not file.is_file():
            raise UserError(f"manifest {file} does not exist")
        with file.open(encoding="utf-8-sig", newline="") as lines:
            rows = csv.reader(lines)
            header = [name.strip() for name in next((row for row in rows if any(row)), [])]
            above = rows.line_num  # the header and blank lines before it
        if not header:
            raise UserError(f"manifest {file} is empty; it must have the columns path and label")
        if twice := [name for name in header if header.count(name) > 1]:
            raise UserError(f"manifest {file} has the column {twice[0]!r} twice; remove one")
        with warnings.catch_warnings():
            warnings.simplefilter("error", pd.errors.ParserWarning)  # of rows longer than the header
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
        raise UserError(f"manifest {file} has rows with more fields than its header; mend the manifest") from None
    except (ValueError, OSError, csv.Error) as error:
        raise UserError(f"manifest {file} cannot be read as CSV ({' '.join(str(error).split())})") from None
    table.index += above + 1
    written = (table != "").any(axis=1)  # not a blank line
    return table.loc[written].rename(columns={name: _free_name(name, header) for name in _RESERVED})


def _free_name(name: str, taken: Sequence[str]) -> str:
    while name in (*_RESERVED, *taken):
        name += "_given"
    return name


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
        first = bad.index[np.flatnonzero(bad.to_numpy())[0]]
        more = f" (and {int(bad.sum()) - 1} rows more)" if bad.sum() > 1 else ""
        raise UserError(f"manifest {file} row {first} {what}: {table.loc[first, 'path']!r}{more}; mend the manifest")
