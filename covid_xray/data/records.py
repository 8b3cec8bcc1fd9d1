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
from collections.abc import Mapping

import pandas as pd

from covid_xray.errors import UserError

COLUMNS = ("path", "file", "label", "patient_id", "source", "split")
SPLIT_NAMES = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test", "": ""}
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
    for column in ("path", "label"):
        if column not in records:
            raise UserError(f"records has no column {column!r}; it has {', '.join(map(str, records.columns))}")
    table = records.copy()
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
    files, folder = table["file"].where(table["file"] != "", table["path"]), os.getcwd()  # noqa: PTH109
    table["file"] = [os.path.join(folder, file) for file in files]  # noqa: PTH118 pathlib is slow on many rows
    return table.reset_index(drop=True)


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


def map_classes(table: pd.DataFrame, class_map: Mapping[str, str | None]) -> pd.DataFrame:
    """Rename classes. Leave out classes that are mapped to None, and print the number of their images.

    Raises:
        UserError: If a name is not that of a class, or no images remain.
    """
    present = sorted(table["label"].unique())
    if unknown := [name for name in class_map if name not in present]:
        raise UserError(f"data.class_map: no image has the label {unknown[0]!r}; the labels are {', '.join(present)}")
    for name, new in class_map.items():
        if new is not None and (not isinstance(new, str) or not new.strip()):
            raise UserError(f"data.class_map.{name} must be a class name, or null to leave the class out, not {new!r}")
    left_out = table["label"].isin([name for name, new in class_map.items() if new is None])
    for label, count in table["label"][left_out].value_counts().items():
        print(f"data.class_map: {count} images of class {label} are left out")
    kept = table[~left_out].reset_index(drop=True)
    if kept.empty:
        raise UserError("data.class_map leaves no images; map at least two classes to a name")
    return kept.assign(label=kept["label"].map(lambda label: class_map.get(label) or label))


def check_class_names(labels: pd.Series) -> None:
    """Check that no two class names differ only in upper and lower case, spaces, hyphens or underscores.

    Raises:
        UserError: Naming two such classes and the setting that joins them.
    """
    seen: dict[str, str] = {}
    for label in sorted(labels.unique()):
        plain = _SEPARATOR.sub("", unicodedata.normalize("NFKC", label).casefold())
        if (other := seen.setdefault(plain, label)) != label:
            raise UserError(
                f"{other!r} and {label!r} would be two classes; join them with "
                f'\'data.class_map={{"{other}": "{label}"}}\', or rename one so that they differ in more than '
                f"case, spaces, hyphens and underscores"
            )
