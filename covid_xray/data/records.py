"""The table of images that every data set is read into, here called records.

The table has one row per image. Its columns are text:

- ``path``: Path of the image as the data set writes it; identifies the image.
- ``file``: Absolute path of the image file.
- ``label``: Name of the class.
- ``patient_id``: Identifier of the patient; equal to ``path`` if the patient is not known.
- ``source``: Name of the collection that the image comes from; may be empty.
- ``split``: ``train``, ``val``, ``test`` or empty.

A data set may add columns. A reader stores its own name (``_target_``) and its arguments in ``attrs["reader"]``, so
that the same table can be read again.
"""

import os
import re
import unicodedata
from collections.abc import Iterable, Mapping
from typing import Any

import pandas as pd

from covid_xray.errors import CONTROL, UserError, is_key, override

COLUMNS = ("path", "file", "label", "patient_id", "source", "split")
SPLIT_NAMES = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
    "": "",
}
MAX_NAME = 100  # characters of the name of a class
MAX_CLASSES = 1000  # of a run: memory is taken for each
_SEPARATOR = re.compile(r"(?<=\w)[\s_-]+(?=\w)")


def check_records(records: pd.DataFrame) -> pd.DataFrame:
    """Check a table of images and add the columns that it lacks. No file is opened.

    Args:
        records: Columns ``path`` and ``label``, and optionally ``file`` (default: absolute path of ``path``),
            ``patient_id`` (default: ``path``), ``source`` and ``split`` (default: empty). Missing values get the
            default.

    Returns:
        A new table with the columns above as text, the other columns unchanged, and rows numbered from 0.

    Raises:
        UserError: If the argument is not a table or is empty, a column is missing or there twice, a path or label is
            empty, a path is listed twice, or a split is unknown.
    """
    if not isinstance(records, pd.DataFrame) or records.empty:
        raise UserError("records must be a pandas DataFrame with at least one row")
    if (twice := records.columns[records.columns.duplicated()]).size:
        raise UserError(f"records has the column {twice[0]!r} twice; remove one")
    table = records.rename(columns=standard_names(records.columns))
    for column in ("path", "label"):
        if column not in table:
            raise UserError(f"records has no column {column!r}; it has {', '.join(map(str, records.columns))}")
    for column in COLUMNS:
        values = table[column].astype(object) if column in table else pd.Series("", table.index, dtype=object)
        table[column] = values.where(values.notna(), "").map(str)
    for column in ("path", "label"):
        check_rows("records", table, table[column].str.strip() == "", f"has no {column}")
    check_rows("records", table, table["path"].duplicated(), "lists an image a second time")
    table["split"] = table["split"].str.strip().str.lower()
    check_rows("records", table, ~table["split"].isin(list(SPLIT_NAMES)), "has a split other than train, val or test")
    table["split"] = table["split"].map(SPLIT_NAMES)
    table["patient_id"] = table["patient_id"].where(table["patient_id"] != "", table["path"])
    check_text(table)
    check_patients(table)
    files, folder = table["file"].where(table["file"] != "", table["path"]), os.getcwd()  # noqa: PTH109
    table["file"] = [os.path.join(folder, file) for file in files]  # noqa: PTH118 pathlib is slow on many rows
    return table.reset_index(drop=True)


def standard_names(names: Iterable[str]) -> dict[str, str]:
    """Return the new name of each column whose name is that of a column above in other letters, such as ``Path``."""
    names = [str(name) for name in names]
    found = {name: name.lower() for name in names if name.lower() in COLUMNS and name.lower() not in names}
    return {name: new for name, new in found.items() if list(found.values()).count(new) == 1}


def check_rows(name: str, table: pd.DataFrame, bad: pd.Series, problem: str) -> None:
    """Raise an error if there are bad rows.

    Args:
        name: Name of the table, for the message.
        table: Column ``path``; the index holds the row numbers to report.
        bad: Whether each row is bad.
        problem: Predicate of the message, such as ``has no label``.

    Raises:
        UserError: Naming the first bad row and the number of the others.
    """
    if bad.any():
        first = int(bad.to_numpy().argmax())
        more = f" (and {int(bad.sum()) - 1} more)" if bad.sum() > 1 else ""
        raise UserError(
            f"{name} row {table.index[first]} {problem}: {table['path'].iloc[first]!r}{more}; correct or remove the row"
        )


def class_map_text(class_map: Mapping[Any, Any]) -> dict[str, str | None]:
    """Return a class map whose names are text: YAML and Hydra read ``{0: normal}`` as a number.

    Raises:
        UserError: If a new name is not the name of a class, or null.
    """
    if not isinstance(class_map, Mapping):
        raise UserError(f"data.class_map must be a mapping of old to new class names, not {class_map!r}")
    for name, new in class_map.items():
        is_name = isinstance(new, str | int | float) and not isinstance(new, bool) and str(new).strip()
        if new is not None and not is_name:
            raise UserError(f"data.class_map.{name} must be a class name, or null to leave the class out, not {new!r}")
    return {str(name): None if new is None else str(new) for name, new in class_map.items()}


def map_classes(table: pd.DataFrame, class_map: Mapping[str, str | None]) -> pd.DataFrame:
    """Rename classes. Leave out classes that are mapped to None, and print the number of their images.

    Raises:
        UserError: If a name is not that of a class, or no images remain.
    """
    class_map = class_map_text(class_map)
    present = sorted(table["label"].unique())
    if unknown := [name for name in class_map if name not in present]:
        raise UserError(f"data.class_map: no image has the label {unknown[0]!r}; the labels are {', '.join(present)}")
    left_out = table["label"].isin([name for name, new in class_map.items() if new is None])
    for label, count in table["label"][left_out].value_counts().items():
        print(f"data.class_map: {count} images of class {label} are left out")
    kept = table[~left_out].reset_index(drop=True)
    if kept.empty:
        raise UserError("data.class_map leaves no images; map at least two classes to a name")
    return kept.assign(label=kept["label"].map(lambda label: class_map.get(label) or label))


def check_text(records: pd.DataFrame) -> None:
    """Check that paths, labels, patients and sources have no control characters, which would change a terminal's text.

    Raises:
        UserError: Naming the first such value.
    """
    for column in ("path", "label", "patient_id", "source"):
        values = pd.Series(records[column].unique(), dtype=object)  # text of pyarrow cannot hold broken text
        if (bad := values.str.contains(CONTROL)).any():
            raise UserError(f"the {column} {values[bad].iloc[0]!r} has a control character or broken text; rename it")
    if long := [label for label in records["label"].unique() if len(label) > MAX_NAME]:
        raise UserError(f"the name of a class is longer than {MAX_NAME} characters: {long[0][:MAX_NAME]}...; rename it")


def check_class_names(labels: pd.Series) -> None:
    """Check that no two class names differ only in case, spaces, hyphens or underscores, or are equal as numbers.

    Raises:
        UserError: Naming two such classes and the setting that joins them.
    """
    seen: dict[str, str] = {}
    for label in sorted(labels.unique()):
        plain = _SEPARATOR.sub("", unicodedata.normalize("NFKC", label).casefold())
        if (other := seen.setdefault(_as_number(plain), label)) != label:
            pair = next(((a, b) for a, b in ((other, label), (label, other)) if is_key(a)), None)
            join = f"join them with {override('data.class_map', dict([pair]))}, or " if pair else ""
            raise UserError(
                f"{other!r} and {label!r} would be two classes; {join}rename one so that they differ in more than "
                f"case, spaces, hyphens and underscores, and are not the same number"
            )


def check_patients(records: pd.DataFrame) -> None:
    """Check that no two patient ids differ only in case, blanks, leading zeros or a final ``.0``.

    Spreadsheets and pandas write such variants, and an unnoticed one puts a patient into two splits.

    Raises:
        UserError: Naming two such ids, the number of the others, and the remedy.
    """
    seen: dict[str, str] = {}
    pairs = []
    for patient in sorted(records["patient_id"][records["patient_id"] != records["path"]].unique()):
        if (other := seen.setdefault(plain_patient(patient), patient)) != patient:
            pairs.append((other, patient))
    if pairs:
        (one, two), more = pairs[0], f" (and {len(pairs) - 1} more such pairs)" if len(pairs) > 1 else ""
        raise UserError(
            f"the patient ids {one!r} and {two!r} differ only in case, blanks, leading zeros or .0{more}; write the "
            f"id of one patient in one way in every row, or give different patients clearly different ids"
        )


def plain_patient(patient: str) -> str:
    """Return a patient id without what spreadsheets change: case, blanks, leading zeros and a final ``.0``."""
    plain = re.sub(r"\s+", "", unicodedata.normalize("NFKC", patient).casefold())
    return re.sub(r"(?<!\d)0+(?=\d)", "", re.sub(r"(?<=\d)\.0+$", "", plain))


def _as_number(name: str) -> str:
    """Return ``0`` for ``0.0``, ``00`` and ``0``; other names as they are."""
    return str(float(name)) if re.fullmatch(r"[+-]?\d{1,15}(\.\d*)?", name) else name
