"""Reads images in class folders. Files that are left out are reported with the reason."""

import os
import re
from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from covid_xray.data.images.read import EXTENSIONS
from covid_xray.data.records import COLUMNS, SPLIT_NAMES, check_class_names, map_classes
from covid_xray.errors import UserError

HIDDEN = re.compile(r"\.|__MACOSX$")  # files that programs create, such as ._1.png and .ipynb_checkpoints
_SHOWN = 3


def read_folder(
    root: str | Path, patient_regex: str | None = None, class_map: Mapping[str, str | None] | None = None
) -> pd.DataFrame:
    """Read class folders into records, and print which files are left out and why.

    Args:
        root: See `list_folder`.
        patient_regex: See `list_folder`.
        class_map: See `covid_xray.data.records.map_classes`.

    Raises:
        UserError: As `list_folder`, or if two class names differ only in case, spaces, hyphens or underscores.
    """
    table, left_out = list_folder(root, patient_regex)
    for reason in dict.fromkeys(left_out.values()):
        paths = [path for path, why in left_out.items() if why == reason]
        more = f" and {len(paths) - _SHOWN} more" if len(paths) > _SHOWN else ""
        print(f"data.root={root}: left out because {reason}: {', '.join(map(repr, paths[:_SHOWN]))}{more}")
    table = map_classes(table, class_map) if class_map else table
    check_class_names(table["label"])
    table.attrs["reader"] = {
        "_target_": "covid_xray.data.folder.read_folder",
        "root": str(root),
        "patient_regex": patient_regex,
        "class_map": dict(class_map) if class_map else None,
    }
    return table


def list_folder(root: str | Path, patient_regex: str | None = None) -> tuple[pd.DataFrame, dict[str, str]]:
    """List the images in ``<class>/`` folders, or in ``train|val|test/<class>/`` folders, and in their subfolders.

    Args:
        root: The folder that contains them. The names ``train``, ``val`` and ``test`` are case-insensitive.
        patient_regex: Regular expression with one group that matches the patient's id in a file name. Without it, and
            where it does not match, every image is its own patient.

    Returns:
        The records, and the reason for each path that is left out: images outside class folders, files in a class
        folder without the extension of an image, hidden images, and hidden, linked and empty folders.

    Raises:
        UserError: If the folder is missing, cannot be read or has no images, or the expression is not valid.
    """
    root = Path(root)
    if not root.is_dir():
        raise UserError(f"data.root={root} is no folder")
    pattern = compile_patient_regex(patient_regex)
    has_splits = any(name.lower() in SPLIT_NAMES for name in _folders(root))
    depth = 2 if has_splits else 1  # of a class folder
    rows = []
    left_out: dict[str, str] = {}
    empty: set[str] = set()
    for relative in _walk(root, depth, left_out):
        parts = relative.split("/")
        in_class = len(parts) > depth and (not has_splits or parts[0].lower() in SPLIT_NAMES)
        if relative.endswith("/"):
            if in_class and len(parts) == depth + 1:
                empty.add(relative)
        elif not parts[-1].lower().endswith(EXTENSIONS):
            if in_class and not HIDDEN.match(parts[-1]):
                left_out[relative] = "it does not have the extension of an image"
        elif not in_class:
            outside_splits = has_splits and len(parts) > 1 and parts[0].lower() not in SPLIT_NAMES
            left_out[relative] = f"it is not in {'train, val or test' if outside_splits else 'a class folder'}"
        elif HIDDEN.match(parts[-1]):
            left_out[relative] = "it is hidden"
        else:
            split = SPLIT_NAMES[parts[0].lower()] if has_splits else ""
            match = pattern.search(parts[-1]) if pattern else None
            patient = match[1] if match and match[1] else relative
            rows.append((relative, str((root / relative).absolute()), parts[depth - 1], patient, "", split))
            empty.discard("/".join([*parts[:depth], ""]))
    if not rows:
        raise UserError(f"data.root={root} holds no images; expected <class>/ or train|val|test/<class>/ folders")
    left_out |= dict.fromkeys(sorted(empty), "it contains no images")
    return pd.DataFrame(rows, columns=list(COLUMNS)), left_out


def compile_patient_regex(regex: str | None) -> re.Pattern[str] | None:
    """Check and compile ``data.patient_regex``.

    Raises:
        UserError: If it is not a regular expression with exactly one group.
    """
    if regex is None:
        return None
    try:
        pattern = re.compile(regex)
    except (re.error, TypeError) as error:
        raise UserError(f"data.patient_regex={regex!r} is no regular expression ({error})") from None
    if pattern.groups != 1:
        raise UserError(f"data.patient_regex={regex!r} must have exactly one group, which matches the patient's id")
    return pattern


def _folders(root: Path) -> list[str]:
    try:
        return [path.name for path in root.iterdir() if path.is_dir()]
    except OSError as error:
        raise UserError(f"data.root={root} cannot be read: {error.strerror or error}") from None


def _walk(root: Path, depth: int, left_out: dict[str, str]) -> list[str]:
    """Return the sorted paths of all files and folders in a folder; those of folders end in a slash.

    A class folder may be a symbolic link. Links below it are left out, because they may form a cycle.
    """
    found = []

    def refuse(error: OSError) -> None:
        raise UserError(f"folder {error.filename} cannot be read: {error.strerror}; repair or remove it") from None

    for place, folders, files in os.walk(root, onerror=refuse, followlinks=True):
        start = "" if Path(place) == root else Path(place).relative_to(root).as_posix() + "/"
        for name in list(folders):
            hidden = HIDDEN.match(name)
            if hidden or (start.count("/") >= depth and (Path(place) / name).is_symlink()):
                folders.remove(name)
                left_out[f"{start}{name}/"] = "it is hidden" if hidden else "it is a link to a folder"
        found += [start + name for name in files] + [f"{start}{name}/" for name in folders]
    return sorted(found)
