"""Importers: each module reads one published collection in the layout of its publisher.

An importer has a function ``read(source)`` that returns a table with one row per image. The columns are text:

- ``path``: Path of the image, relative to ``source``, with forward slashes.
- ``label``: Class; empty if it is not known.
- ``patient_id``: Patient, with the name of the collection that numbers the patients as prefix; empty if not known.
- ``source``: Name of the collection that the image comes from.
- ``view``: Projection (PA, AP, L, ...); empty if it is not known.
- ``split``: ``train``, ``val`` or ``test`` if the publisher gives a split.
- ``row``: Row of the image in the publisher's table, for ``rejected.csv``.
- ``reason``: Why the image is rejected; empty for the others.

The last three may be missing. Other columns are kept.
"""

import pkgutil
from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path

import pandas as pd

from covid_xray.data.folder import HIDDEN
from covid_xray.data.images.read import EXTENSIONS
from covid_xray.data.records import SPLIT_NAMES
from covid_xray.errors import UserError


def importers() -> list[str]:
    """Return the names of all importers."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__))


def importer(dataset: str) -> Callable[[Path], pd.DataFrame]:
    """Return the ``read`` function of an importer.

    Raises:
        UserError: If no importer has this name.
    """
    if dataset not in importers():
        raise UserError(f"dataset={dataset!r} is not known; use one of {', '.join(importers())}")
    read: Callable[[Path], pd.DataFrame] = import_module(f"{__name__}.{dataset}").read
    return read


def class_folders(root: Path, labels: Mapping[str, str]) -> list[tuple[Path, str]]:
    """Return the class folders in a folder, sorted, each with its class.

    Args:
        root: The folder that contains them.
        labels: Class by folder name in lower case.

    Raises:
        UserError: If there are no class folders.
    """
    folders = sorted(path for path in root.iterdir() if path.is_dir())
    found = [(path, labels[path.name.lower()]) for path in folders if path.name.lower() in labels]
    if not found:
        raise UserError(f"{root} contains none of the class folders {', '.join(labels)}; give another source")
    return found


def split_folders(root: Path) -> list[tuple[Path, str]]:
    """Return the folders in a folder that are named as a split, in any case, each with the split; train first."""
    folders = [path for path in sorted(root.iterdir()) if path.is_dir() and path.name.lower() in SPLIT_NAMES]
    order = ["train", "val", "test"]
    return sorted(((path, SPLIT_NAMES[path.name.lower()]) for path in folders), key=lambda item: order.index(item[1]))


def image_files(folder: Path) -> list[Path]:
    """Return the files with an image extension in a folder and its subfolders, sorted, without hidden ones."""
    found = (path for path in folder.rglob("*") if path.suffix.lower() in EXTENSIONS and not path.is_dir())
    return sorted(path for path in found if not any(map(HIDDEN.match, path.relative_to(folder).parts)))


def reject_others(table: pd.DataFrame, source: Path, ignored: tuple[str, ...] = ()) -> pd.DataFrame:
    """Append the images in ``source`` that a table does not list, as rejected, so that they are reported.

    Args:
        table: Rows of an importer.
        source: Folder of the collection.
        ignored: Names of folders without X-rays, which are not reported.
    """
    found = (file.relative_to(source) for file in image_files(source))
    paths = {path.as_posix() for path in found if not set(path.parts) & set(ignored)} - set(table["path"])
    others = pd.DataFrame({"path": sorted(paths)}, dtype=str).assign(reason="it is outside the collection's folders")
    return pd.concat([table, others], ignore_index=True).fillna("")


def one_file(source: Path, *names: str) -> Path:
    """Return the first of the named files that exists in ``source``.

    Raises:
        UserError: If none exists.
    """
    for name in names:
        if (source / name).is_file():
            return source / name
    raise UserError(f"source={source} contains no {' or '.join(names)}; give the folder that does")


def read_table(file: Path, columns: tuple[str, ...]) -> pd.DataFrame:
    """Read a publisher's CSV file as text and add the column ``row`` with the row numbers.

    Args:
        file: The CSV file.
        columns: Required columns. Their case in the file may differ; the table has them as spelled here.

    Raises:
        UserError: If the file cannot be read, or a column is missing.
    """
    try:
        table = pd.read_csv(file, dtype=str, keep_default_na=False, encoding="utf-8-sig", index_col=False).fillna("")
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError, OSError) as error:
        raise UserError(f"{file} cannot be read as CSV ({' '.join(str(error).split())}); download it again") from None
    table.columns = table.columns.str.strip()
    spelling = {name.lower(): name for name in table.columns}
    if missing := [name for name in columns if name.lower() not in spelling]:
        raise UserError(f"{file} has no column {missing[0]!r}; it has {', '.join(table.columns)}")
    table = table.rename(columns={spelling[name.lower()]: name for name in columns})
    return table.assign(row=[str(number) for number in range(2, len(table) + 2)])
