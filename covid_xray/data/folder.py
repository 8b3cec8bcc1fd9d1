"""Reads images in class folders. Files that are left out are reported with the reason."""

import os
import re
from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from covid_xray.data.images.read import EXTENSIONS
from covid_xray.data.records import (
    COLUMNS,
    SPLIT_NAMES,
    check_class_names,
    check_patients,
    check_text,
    class_map_text,
    map_classes,
)
from covid_xray.errors import UserError

HIDDEN = re.compile(r"\.|__MACOSX$")  # files that programs create, such as ._1.png and .ipynb_checkpoints
_MASKS = re.compile(r"(.*[ _-])?masks?$", re.IGNORECASE)
MAX_DEPTH = 100  # levels of folders
_SHOWN = 3


def read_folder(
    root: str | Path, patient_regex: str | None = None, class_map: Mapping[str, str | None] | None = None
) -> pd.DataFrame:
    """Read class folders into records, and print which files are left out and why.

    Args:
        root: See `list_folder`.
        patient_regex: See `find_patients`. Without it, every image is its own patient.
        class_map: See `covid_xray.data.records.map_classes`.

    Raises:
        UserError: As `list_folder`, `find_patients`, `covid_xray.data.records.check_class_names` and `check_patients`.
    """
    compile_patient_regex(patient_regex)
    table, left_out = list_folder(root)
    if patient_regex is not None:
        table["patient_id"] = find_patients(table["path"], patient_regex, table["patient_id"], f"data.root={root}")
    for reason in dict.fromkeys(left_out.values()):
        paths = [path for path, why in left_out.items() if why == reason]
        more = f" and {len(paths) - _SHOWN} more" if len(paths) > _SHOWN else ""
        print(f"data.root={root}: left out because {reason}: {', '.join(map(repr, paths[:_SHOWN]))}{more}")
    table = map_classes(table, class_map) if class_map else table
    check_text(table)
    check_class_names(table["label"])
    check_patients(table)
    table.attrs["reader"] = {
        "_target_": "covid_xray.data.folder.read_folder",
        "root": str(root),
        "patient_regex": patient_regex,
        "class_map": class_map_text(class_map) if class_map else None,
    }
    return table


def list_folder(root: str | Path) -> tuple[pd.DataFrame, dict[str, str]]:
    """List the images in ``<class>/`` folders, or in ``train|val|test/<class>/`` folders, and in their subfolders.

    Args:
        root: The folder that contains them. The names of the splits are case-insensitive; ``training``, ``valid``,
            ``validation`` and ``testing`` are names too.

    Returns:
        The records, each image its own patient, and the reason for each path that is left out: images outside class
        folders, files in a class folder without the extension of an image, hidden images, hidden, linked and empty
        folders, and folders of masks.

    Raises:
        UserError: If the folder is missing, cannot be read or has no images.
    """
    root = Path(root)
    if not root.is_dir():
        raise UserError(f"data.root={root} is no folder")
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
            rows.append((relative, str((root / relative).absolute()), parts[depth - 1], relative, "", split))
            empty.discard("/".join([*parts[:depth], ""]))
    if not rows:
        raise UserError(f"data.root={root} holds no images; expected <class>/ or train|val|test/<class>/ folders")
    left_out |= dict.fromkeys(sorted(empty), "it contains no images")
    # Not text of pandas, which with pyarrow cannot hold a name that is not UTF-8.
    return pd.DataFrame(rows, columns=list(COLUMNS), dtype=object), left_out


def find_patients(paths: pd.Series, regex: str, default: pd.Series, where: str) -> pd.Series:
    """Find the patient in each path: in the name of the file, or else in the path with its folders.

    Args:
        paths: Paths relative to the folder of the data, with forward slashes.
        regex: Regular expression with one group that matches the patient's id.
        default: Patient of each path that has none; their number is printed.
        where: The setting that names the data, for messages.

    Raises:
        UserError: If the expression is not valid, or no path contains a patient.
    """
    pattern = compile_patient_regex(regex)
    assert pattern is not None

    def patient(path: str) -> str:
        matches = (pattern.search(text) for text in (path.rsplit("/", 1)[-1], path))
        return next((match[1] for match in matches if match and match[1]), "")

    found = paths.map(patient)
    missed = found == ""
    if missed.all():
        raise UserError(
            f"data.patient_regex={regex!r} finds no patient in any path of {where}, for example {paths.iloc[0]!r}; "
            f"correct it, or leave it out if every image is of another patient"
        )
    if missed.any():
        first = paths[missed].iloc[0]
        print(f"data.patient_regex finds no patient in {missed.sum()} of {len(paths)} paths of {where}: {first!r}, ...")
    return found.where(~missed, default)


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


def check_depth(root: str | Path, depth: int) -> None:
    """Check how many levels a folder of images has, before Python's own limit is reached.

    Raises:
        UserError: If there are more than `MAX_DEPTH`.
    """
    if depth > MAX_DEPTH:
        raise UserError(f"{root} has more than {MAX_DEPTH} levels of folders; move the images up")


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
        check_depth(root, start.count("/"))
        for name in list(folders):
            hidden = HIDDEN.match(name)
            in_class = start.count("/") >= depth
            masks, link = in_class and _MASKS.match(name), in_class and (Path(place) / name).is_symlink()
            if hidden or masks or link:
                folders.remove(name)
                reason = "is hidden" if hidden else "contains masks" if masks else "is a link to a folder"
                left_out[f"{start}{name}/"] = f"it {reason}"
        found += [start + name for name in files] + [f"{start}{name}/" for name in folders]
    return sorted(found)
