"""Images in class folders, and what lies beside them: nothing is left out in silence."""

import os
import re
from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from covid_xray.data.images.read import EXTENSIONS
from covid_xray.data.manifest import SPLIT_NAMES, map_classes, refuse_lookalikes
from covid_xray.errors import UserError

_HIDDEN = re.compile(r"\.|__MACOSX$")  # what programs and Macs leave behind, such as ._1.png and .ipynb_checkpoints
_SHOWN = 3


def read_folder(
    root: str | Path, patient_regex: str | None = None, class_map: Mapping[str, str | None] | None = None
) -> pd.DataFrame:
    """Table of the images of class folders; prints how many files are left out, and why.

    Args:
        root: See `list_folder`.
        patient_regex: See `list_folder`.
        class_map: See `covid_xray.data.manifest.map_classes`.

    Raises:
        UserError: As `list_folder`, or if two classes have the same name but for upper and lower case.
    """
    table, left_out = list_folder(root, patient_regex)
    for reason in dict.fromkeys(left_out.values()):
        paths = [path for path, why in left_out.items() if why == reason]
        more = f" and {len(paths) - _SHOWN} more" if len(paths) > _SHOWN else ""
        print(f"data.root={root}: left out because {reason}: {', '.join(map(repr, paths[:_SHOWN]))}{more}")
    table = map_classes(table, class_map) if class_map else table
    refuse_lookalikes(table["label"])
    return table


def list_folder(root: str | Path, patient_regex: str | None = None) -> tuple[pd.DataFrame, dict[str, str]]:
    """List the images of ``<class>/`` folders, or of ``train|val|test/<class>/`` folders, at any depth in them.

    Args:
        root: The folder that holds them. ``train`` and the others may be written in any case of letters.
        patient_regex: Regular expression with one group that finds the patient's id in a file name. Without it, and
            where it finds nothing, every image is its own patient.

    Returns:
        The table of images, and the reason by path of what is left out: images in no folder of a class, files in such
        a folder that are named like no image, hidden images, and hidden, linked and empty folders.

    Raises:
        UserError: If the folder is missing, cannot be read, holds no images, or the expression is no good.
    """
    root = Path(root)
    if not root.is_dir():
        raise UserError(f"data.root={root} is no folder")
    pattern = compile_patient_regex(patient_regex)
    split_here = any(name.lower() in SPLIT_NAMES for name in _folders(root))
    depth = 2 if split_here else 1  # of the folder of a class
    rows = []
    left_out: dict[str, str] = {}
    empty: set[str] = set()
    for relative in _walk(root, depth, left_out):
        parts = relative.split("/")
        in_class = len(parts) > depth and (not split_here or parts[0].lower() in SPLIT_NAMES)
        if relative.endswith("/"):
            if in_class and len(parts) == depth + 1:
                empty.add(relative)
        elif not parts[-1].lower().endswith(EXTENSIONS):
            if in_class and not _HIDDEN.match(parts[-1]):
                left_out[relative] = "its name has no ending of an image"
        elif not in_class:
            beside = split_here and len(parts) > 1 and parts[0].lower() not in SPLIT_NAMES
            left_out[relative] = f"it lies {'beside train, val and test' if beside else 'in no folder of a class'}"
        elif _HIDDEN.match(parts[-1]):
            left_out[relative] = "it is hidden"
        else:
            split = SPLIT_NAMES[parts[0].lower()] if split_here else ""
            match = pattern.search(parts[-1]) if pattern else None
            patient = match[1] if match and match[1] else relative
            rows.append((relative, str((root / relative).absolute()), parts[depth - 1], patient, "", split))
            empty.discard("/".join([*parts[:depth], ""]))
    if not rows:
        raise UserError(f"data.root={root} holds no images; expected <class>/ or train|val|test/<class>/ folders")
    left_out |= dict.fromkeys(sorted(empty), "it holds no image")
    return pd.DataFrame(rows, columns=["path", "file", "label", "patient_id", "source", "split"]), left_out


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


def _folders(root: Path) -> list[str]:
    try:
        return [path.name for path in root.iterdir() if path.is_dir()]
    except OSError as error:
        raise UserError(f"data.root={root} cannot be read: {error.strerror or error}") from None


def _walk(root: Path, depth: int, left_out: dict[str, str]) -> list[str]:
    """Everything in a folder, sorted; folders end in a slash. Hidden folders are not entered, nor links below a class.

    A class may be a link to a folder; one deeper down may lead round in a circle.
    """
    found = []

    def refuse(error: OSError) -> None:
        raise UserError(f"folder {error.filename} cannot be read: {error.strerror}; mend or remove it") from None

    for place, folders, files in os.walk(root, onerror=refuse, followlinks=True):
        start = "" if Path(place) == root else Path(place).relative_to(root).as_posix() + "/"
        for name in list(folders):
            hidden = _HIDDEN.match(name)
            if hidden or (start.count("/") >= depth and (Path(place) / name).is_symlink()):
                folders.remove(name)
                left_out[f"{start}{name}/"] = "it is hidden" if hidden else "it is a link to a folder"
        found += [start + name for name in files] + [f"{start}{name}/" for name in folders]
    return sorted(found)
