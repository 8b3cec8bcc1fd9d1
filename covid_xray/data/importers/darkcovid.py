"""The images of DarkCovidNet (Ozturk et al. 2020).

Layout: folders ``Covid-19``, ``No_findings`` or ``normal``, and ``Pneumonia`` (case-insensitive), directly in the
source or in ``X-Ray Image DataSet/`` (early versions: ``Dataset/``). Images without COVID-19 come from NIH ChestX-ray8;
their names start with the patient: ``00002658_001.png``. COVID-19 images come from covid-chestxray-dataset. If its
``metadata.csv`` is next to the folders, patients and views are read from it. Otherwise the patient is the file name
without the endings that number the images of a case. That merges the patients of some publications. It also makes each
file that is named by a UUID its own patient, which splits 6 of 84 patients. Source: github.com/muhammedtalo/COVID-19.
"""

import re
from pathlib import Path

import pandas as pd

from covid_xray.data.importers import class_folders, cohen, image_files, reject_others

_LABELS = {
    **dict.fromkeys(("covid-19", "covid19", "covid"), "covid-19"),
    **dict.fromkeys(("no_findings", "no-findings", "normal"), "normal"),
    "pneumonia": "pneumonia",
}
_INSIDE = ("X-Ray Image DataSet", "Dataset")
_NIH = re.compile(r"^(\d{8})_\d{3}$")
_UUID = re.compile(r"^[0-9A-F]{8}(-[0-9A-F]{4}){3}-[0-9A-F]{12}$", re.IGNORECASE)
# Endings of file names that number the images of a case, such as -day3, -PA, -12-hours, _f1a, -gr2_lrg-b.
_ENDING = re.compile(
    r"([-_.](day-?\d+|\d+-(hours|days)|admission|pa|ap|l|[a-h]\d?)|[-_.](fig(ure)?|f|g)\d+[a-h]?|(?<=pdf)-\d+"
    r"|(?<=\d)[a-h])$",
    re.IGNORECASE,
)


def read(source: Path) -> pd.DataFrame:
    """List the images of the three folders."""
    root = next((source / name for name in _INSIDE if (source / name).is_dir()), source)
    known = _cohen_patients(root)
    rows = []
    for folder, label in class_folders(root, _LABELS):
        for file in image_files(folder):
            nih = _NIH.match(file.stem)
            if nih:
                patient, origin, view = f"nih-{nih[1]}", "nih-chestxray8", ""
            else:
                patient, view = known.get(file.stem, (f"cohen-{case_of(file.stem)}", ""))
                origin = "covid-chestxray-dataset"
            rows.append((file.relative_to(source).as_posix(), label, patient, origin, view))
    return reject_others(pd.DataFrame(rows, columns=["path", "label", "patient_id", "source", "view"]), source)


def case_of(stem: str) -> str:
    """Return a file name without the endings that number the images of one case."""
    if _UUID.match(stem):
        return stem
    shorter = _ENDING.sub("", re.sub(r"^(auntminnie)-[a-z]-", r"\1-", stem))
    return case_of(shorter) if shorter not in (stem, "") else stem


def _cohen_patients(source: Path) -> dict[str, tuple[str, str]]:
    if not (source / "metadata.csv").is_file():
        return {}
    table = cohen.read(source)
    table = table[table["patient_id"] != ""]
    return {
        Path(path).stem: (patient, view)
        for path, patient, view in zip(table["path"], table["patient_id"], table["view"], strict=True)
    }
