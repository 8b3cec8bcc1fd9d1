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
- ``findings``, ``uncertain``: Findings of the image, and those that the publisher marks as uncertain, joined by ``|``,
  in place of ``label``; `covid_xray.data.importers.findings` makes classes of them. Such an importer also has a
  constant ``CLASSES`` with the default class of each finding.

All but the first five may be missing. Other columns are kept. An image below another folder than the path says is found
by its name; see `locate`.
"""

import os
import pkgutil
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib import import_module
from pathlib import Path, PurePosixPath
from typing import Any

import pandas as pd

from covid_xray.data.folder import HIDDEN
from covid_xray.data.images.read import EXTENSIONS
from covid_xray.data.records import SPLIT_NAMES
from covid_xray.errors import UserError, printable

_SEPARATORS = (",", ";", "\t", "|")


def importers() -> list[str]:
    """Return the names of all importers."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__) if module.name != "findings")


def importer(dataset: str) -> Callable[[Path], pd.DataFrame]:
    """Return the ``read`` function of an importer.

    Raises:
        UserError: If no importer has this name.
    """
    if dataset not in importers():
        raise UserError(f"dataset={dataset!r} is not known; use one of {', '.join(importers())}")
    read: Callable[[Path], pd.DataFrame] = import_module(f"{__name__}.{dataset}").read
    return read


def default_classes(dataset: str) -> dict[str, str]:
    """Return the default class of each finding, of an importer that reads findings; else nothing."""
    return dict(getattr(import_module(f"{__name__}.{dataset}"), "CLASSES", {}))


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
    try:
        return sorted(path for path in found if not any(map(HIDDEN.match, path.relative_to(folder).parts)))
    except RecursionError:
        raise UserError(f"{folder} has too many levels of folders; move the images up") from None


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
    """Read a publisher's table as text and add the column ``row`` with the row numbers.

    The table is UTF-8 with commas. Another separator (semicolon, tab, bar) and the encoding cp1252 are recognised, and
    printed. A name that ends in ``.gz`` is decompressed.

    Args:
        file: The table.
        columns: Required columns. Their case in the file may differ; the table has them as spelled here.

    Raises:
        UserError: If the file cannot be read, or a column is missing.
    """
    settings: dict[str, Any] = {"dtype": str, "keep_default_na": False, "index_col": False}
    try:
        heads = {mark: pd.read_csv(file, nrows=0, sep=mark, encoding_errors="replace") for mark in _SEPARATORS}
        separator = max(_SEPARATORS, key=lambda mark: sum(name in _names(heads[mark]) for name in _lower(columns)))
        settings["sep"] = separator
        try:
            table = pd.read_csv(file, encoding="utf-8-sig", **settings).fillna("")
        except UnicodeDecodeError:
            table = pd.read_csv(file, encoding="cp1252", **settings).fillna("")
            print(f"{file} is not UTF-8: it is read as cp1252 (Windows, western Europe)")
    except (ValueError, EOFError, OSError, zlib.error) as error:  # ValueError includes pandas's errors
        raise UserError(f"{file} cannot be read as CSV ({' '.join(str(error).split())}); download it again") from None
    if separator != ",":
        print(f"{file} is separated by {separator!r}")
    table.columns = table.columns.str.strip()
    spelling = {name.lower(): name for name in table.columns}
    if missing := [name for name in columns if name.lower() not in spelling]:
        raise UserError(f"{file} has no column {missing[0]!r}; it has {', '.join(table.columns)}")
    table = table.rename(columns={spelling[name.lower()]: name for name in columns})
    rows: pd.DataFrame = table.assign(row=[str(number) for number in range(2, len(table) + 2)])
    return rows


def _names(head: pd.DataFrame) -> list[str]:
    return _lower(head.columns.str.strip().str.removeprefix("\ufeff"))


def _lower(names: Iterable[str]) -> list[str]:
    return [name.lower() for name in names]


def locate(paths: Sequence[str], source: Path) -> list[str]:
    """Find images that are not where a table says: below other folders, or with another extension.

    A path is tried without its first folders, which are missing if the source is one of them. After that, the one image
    file in the source with the same name is taken, or the one with the same name apart from the extension. A path that
    fits none or several files, or a name that several missing images have, stays as it is.

    Args:
        paths: Paths of a table, relative to the source.
        source: Folder of the collection.

    Returns:
        The paths; one line is printed if some are new.
    """
    new = [_inside(path, source) for path in paths]
    missing = [number for number, path in enumerate(new) if path is None]
    taken = {path for path in new if path is not None}
    files = [file.relative_to(source).as_posix() for file in image_files(source)] if missing else []
    for part in ("name", "stem"):
        free: dict[str, list[str]] = {}
        for file in files:
            if file not in taken:
                free.setdefault(getattr(PurePosixPath(file), part), []).append(file)
        asked = {number: getattr(PurePosixPath(paths[number]), part) for number in missing if new[number] is None}
        times = Counter(asked.values())
        for number, name in asked.items():
            if times[name] == 1 and len(free.get(name, ())) == 1:
                new[number] = free[name][0]
                taken.add(free[name][0])
    found = [path if place is None else place for path, place in zip(paths, new, strict=True)]
    if moved := [pair for pair in zip(paths, found, strict=True) if pair[0] != pair[1]]:
        first = printable(f"{moved[0][0]} is {moved[0][1]}")
        print(f"{len(moved)} images are in other folders than the table says: {first}, ...")
    return found


def _inside(path: str, source: Path) -> str | None:
    """The path, or the path without its first folders, that exists in the source."""
    parts = path.split("/")
    tries = (os.path.join(*parts[first:]) for first in range(len(parts)))  # noqa: PTH118 pathlib is slow on many rows
    found = (number for number, part in enumerate(tries) if part and os.path.lexists(os.path.join(source, part)))  # noqa: PTH118
    first = next(found, None)
    return None if first is None else "/".join(parts[first:])
