"""COVIDx, the collection of COVID-Net (Wang, Lin and Wong 2020), with its published lists.

Layout: ``train/`` and ``test/`` (and ``val/``) with the images, beside them or in ``labels/`` one list each, called
``train*.txt``, ``test*.txt``, ``val*.txt``. A line is ``patient file class [source]``: three classes (``normal``,
``pneumonia``, ``COVID-19``) or two (``positive``, ``negative``). Older lists have no source. The given split is kept.

The oldest lists (COVIDx 1, March 2020) have four classes: ``bacteria`` and ``viral``, which later lists call
``pneumonia``, become that, too, with the column ``pathogen``. Their normal and pneumonia images are Kermany's children;
these get the patients of `covid_xray.data.importers.kermany`, since the list's numbers join a normal child and one with
pneumonia where both have four digits.

Source: github.com/lindawangg/COVID-Net, and "COVIDx CXR" on Kaggle.
"""

import re
from pathlib import Path, PurePosixPath

import pandas as pd

from covid_xray.data.importers import kermany
from covid_xray.errors import UserError

_PATHOGENS = {"bacteria": "bacteria", "viral": "virus"}
_LABELS = {name: name for name in ("normal", "pneumonia", "covid-19", "positive", "negative")} | dict.fromkeys(
    _PATHOGENS, "pneumonia"
)
_LINE = re.compile(
    rf"^(?P<patient>\S+) (?P<file>.+) (?P<label>{'|'.join(_LABELS)})(?: (?P<source>\S+))?$",
    re.IGNORECASE,
)


def read(source: Path) -> pd.DataFrame:
    """Read the lists; a line that is none of the above is left out with its number."""
    rows = []
    for split in ("train", "val", "test"):
        if (file := _list(source, split)) is not None:
            lines = file.read_text(encoding="utf-8", errors="replace").splitlines()
            rows += [
                _row(line.strip(), split, f"{file.name}:{number}")
                for number, line in enumerate(lines, 1)
                if line.strip()
            ]
    if not rows:
        raise UserError(f"source={source} holds no train*.txt, val*.txt or test*.txt with COVIDx lines")
    table = pd.DataFrame(rows).fillna("")
    return table if table["pathogen"].any() else table.drop(columns="pathogen")


def _list(source: Path, split: str) -> Path | None:
    found = sorted({*source.glob(f"{split}*.txt"), *source.glob(f"labels/{split}*.txt")})
    if len(found) > 1:
        names = ", ".join(file.name for file in found)
        raise UserError(f"source={source} holds several {split} lists ({names}); keep the one that you want")
    return found[0] if found else None


def _row(line: str, split: str, number: str) -> dict[str, str]:
    match = _LINE.match(line)
    if match is None:
        return {
            "path": line,
            "label": "",
            "split": split,
            "row": number,
            "reason": "no line of patient, file and class",
            "pathogen": "",
        }
    label, child = match["label"].lower(), kermany.patient_of(PurePosixPath(match["file"]).stem)
    origin = "kermany" if child else (match["source"] or "").lower()
    return {
        "path": f"{split}/{match['file']}",
        "label": _LABELS[label],
        # The numbers of covid-chestxray-dataset are the same there, so that its patients are known in both.
        "patient_id": child or f"{origin or 'covidx'}-{match['patient']}",
        "source": origin,
        "view": "",
        "split": split,
        "row": number,
        "reason": "",
        "pathogen": _PATHOGENS.get(label, ""),
    }
