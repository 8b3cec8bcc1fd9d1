"""COVIDx, the collection of COVID-Net (Wang, Lin and Wong 2020), with its published lists.

Layout: ``train/``, ``test/`` and optionally ``val/`` with the images; next to them or in ``labels/`` one list each,
named ``train*.txt``, ``test*.txt``, ``val*.txt``. A line is ``patient file class [source]``, with three classes
(``normal``, ``pneumonia``, ``COVID-19``) or two (``positive``, ``negative``). Older lists have no source. The split is
kept. Patient and file may both have several words (``COVID 1 COVID(1).png``): the file is what exists in the folder of
the split; without images, the last word, with the word before it if it begins with a bracket. Among three classes,
``positive`` is COVID-19, and ``negative`` is rejected, because it may be either of the two others.

The oldest lists (COVIDx 1, March 2020) have four classes. Later lists call ``bacteria`` and ``viral`` ``pneumonia``.
So does this importer; the column ``pathogen`` keeps the distinction. The normal and pneumonia images of these lists
come from Kermany's collection. They get the patients of `covid_xray.data.importers.kermany`, because the lists give a
normal child and one with pneumonia the same number if both numbers have four digits.

Source: github.com/lindawangg/COVID-Net, and "COVIDx CXR" on Kaggle.
"""

import re
from pathlib import Path, PurePosixPath

import pandas as pd

from covid_xray.data.importers import figure1, kermany, split_folders
from covid_xray.errors import UserError

_PATHOGENS = {"bacteria": "bacteria", "viral": "virus"}
_LABELS = {name: name for name in ("normal", "pneumonia", "covid-19", "positive", "negative")}
_LABELS |= dict.fromkeys(_PATHOGENS, "pneumonia")
_LINE = re.compile(rf"^(?P<words>\S+ .+) (?P<label>{'|'.join(_LABELS)})(?: (?P<source>\S+))?$", re.IGNORECASE)
_FILE = re.compile(r"^(?P<patient>.+?) (?P<file>\S+(?: \(\S*)?)$")
_COLUMNS = ["path", "label", "patient_id", "source", "view", "split", "row", "reason", "pathogen"]


def read(source: Path) -> pd.DataFrame:
    """List the images of the lists. Other lines are rejected with their line number."""
    rows = []
    folders = {split: folder.name for folder, split in reversed(split_folders(source))}
    for split in ("train", "val", "test"):
        if (file := _list(source, split)) is not None:
            folder = folders.get(split, split)
            lines = file.read_text(encoding="utf-8", errors="replace").splitlines()
            rows += [
                _row(line.strip(), source, folder, split, f"{file.name}:{number}")
                for number, line in enumerate(lines, 1)
                if line.strip()
            ]
    if not rows:
        raise UserError(f"source={source} contains no train*.txt, val*.txt or test*.txt with COVIDx lines")
    table = pd.DataFrame(rows, columns=_COLUMNS, dtype=object).fillna("")
    if table["label"].isin(["normal", "pneumonia", "covid-19"]).any():
        negative = table["label"] == "negative"
        table["label"] = table["label"].replace({"positive": "covid-19"})
        table["reason"] = table["reason"].mask(negative, "its class is negative, in a list of three classes")
    return table if table["pathogen"].any() else table.drop(columns="pathogen")


def _list(source: Path, split: str) -> Path | None:
    places = [place for place in (source, source / "labels") if place.is_dir()]
    found = [file for place in places for file in sorted(place.iterdir()) if _names_list(file.name.lower(), split)]
    if len(found) > 1:
        names = ", ".join(file.name for file in found)
        raise UserError(f"source={source} contains several {split} lists ({names}); keep one of them")
    return found[0] if found else None


def _names_list(name: str, split: str) -> bool:
    return name.startswith(split) and name.endswith(".txt")


def _row(line: str, source: Path, folder: str, split: str, number: str) -> dict[str, str]:
    match = _LINE.match(line)
    if match is None:
        return {"path": line, "split": split, "row": number, "reason": "it is not a line of patient, file and class"}
    words = match["words"].split(" ")
    parts = [(" ".join(words[:end]), " ".join(words[end:])) for end in range(1, len(words))]
    exists = ((patient, file) for patient, file in parts if len(parts) == 1 or (source / folder / file).is_file())
    guess = _FILE.match(match["words"])
    patient, file = next(exists, parts[0] if guess is None else (guess["patient"], guess["file"]))
    label, child = match["label"].lower(), kermany.patient_of(PurePosixPath(file).stem)
    origin = "kermany" if child else (match["source"] or "").lower()
    if origin == "fig1":
        patient = figure1.patient_of(patient)
    return {
        "path": f"{folder}/{file}",
        "label": _LABELS[label],
        # The source as prefix gives an image the same patient as the importer of its collection.
        "patient_id": child or f"{origin or 'covidx'}-{patient}",
        "source": origin,
        "split": split,
        "row": number,
        "pathogen": _PATHOGENS.get(label, ""),
    }
