"""Readers of published collections: one file each, found by its name.

An importer is a module with ``read(source)``, which lists a collection as its publisher lays it out. All is text:

- ``path``: Image, relative to ``source``, with forward slashes.
- ``label``: Class; empty if it is not known.
- ``patient_id``: Patient, beginning with the name of the collection that numbered the patients; empty if not known.
- ``source``: Where the image comes from.
- ``view``: Projection (PA, AP, L, ...); empty if it is not known.
- ``split``: ``train``, ``val`` or ``test`` where the publisher says so.
- ``row``: Where the publisher lists the image, for the list of the rejected.
- ``reason``: Why the image must be left out; empty for the others.

The last three may be missing; more columns are kept.
"""

import pkgutil
import re
from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path

import pandas as pd

from covid_xray.data.images.read import EXTENSIONS
from covid_xray.errors import UserError

_HIDDEN = re.compile(r"\.|__MACOSX$")


def importers() -> list[str]:
    """Names of all importers."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__))


def importer(dataset: str) -> Callable[[Path], pd.DataFrame]:
    """Reader of a collection.

    Raises:
        UserError: If there is none of this name.
    """
    if dataset not in importers():
        raise UserError(f"dataset={dataset!r} is not known; use one of {', '.join(importers())}")
    read: Callable[[Path], pd.DataFrame] = import_module(f"{__name__}.{dataset}").read
    return read


def class_folders(root: Path, labels: Mapping[str, str]) -> list[tuple[Path, str]]:
    """Folders in ``root`` with their class, sorted.

    Args:
        root: The folder that holds them.
        labels: Class by name of the folder in lower case.

    Raises:
        UserError: If there is none of them.
    """
    folders = sorted(path for path in root.iterdir() if path.is_dir())
    found = [(path, labels[path.name.lower()]) for path in folders if path.name.lower() in labels]
    if not found:
        names = ", ".join(labels)
        raise UserError(f"{root} holds none of the folders {names} (in any case of letters); give another source")
    return found


def image_files(folder: Path) -> list[Path]:
    """Images in a folder and the folders in it, sorted, by their extensions; hidden ones (``._1.png``) are none."""
    found = (path for path in folder.rglob("*") if path.suffix.lower() in EXTENSIONS and not path.is_dir())
    return sorted(path for path in found if not any(map(_HIDDEN.match, path.relative_to(folder).parts)))


def with_others(table: pd.DataFrame, source: Path, but: tuple[str, ...] = ()) -> pd.DataFrame:
    """Append all other images in ``source`` as rejected, so that none is left out in silence.

    Args:
        table: Rows of an importer.
        source: The collection's folder.
        but: Names of folders that hold no X-rays.
    """
    found = (file.relative_to(source) for file in image_files(source))
    paths = {path.as_posix() for path in found if not set(path.parts) & set(but)} - set(table["path"])
    others = pd.DataFrame({"path": sorted(paths)}, dtype=str).assign(reason="it lies outside the collection's folders")
    return pd.concat([table, others], ignore_index=True).fillna("")


def one_file(source: Path, *names: str) -> Path:
    """First of the named files that lies in ``source``.

    Raises:
        UserError: If there is none.
    """
    for name in names:
        if (source / name).is_file():
            return source / name
    raise UserError(f"source={source} holds no {' or '.join(names)}; give the folder that does")


def read_table(file: Path, columns: tuple[str, ...]) -> pd.DataFrame:
    """Read a publisher's CSV as text, with the number of each row in the column ``row``.

    Args:
        file: The CSV file.
        columns: Columns that must be there; they get this spelling, whatever the case of letters in the file.

    Raises:
        UserError: If the file cannot be read, or a column is missing.
    """
    try:
        table = pd.read_csv(file, dtype=str, keep_default_na=False, encoding="utf-8-sig", index_col=False).fillna("")
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError, OSError) as error:
        raise UserError(f"{file} cannot be read as CSV ({' '.join(str(error).split())}); get it anew") from None
    table.columns = table.columns.str.strip()
    spelling = {name.lower(): name for name in table.columns}
    if missing := [name for name in columns if name.lower() not in spelling]:
        raise UserError(f"{file} has no column {missing[0]!r}; it has {', '.join(table.columns)}")
    table = table.rename(columns={spelling[name.lower()]: name for name in columns})
    return table.assign(row=[str(number) for number in range(2, len(table) + 2)])
