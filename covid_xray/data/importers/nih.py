"""NIH ChestX-ray8 and ChestX-ray14 (Wang et al. 2017).

Layout: ``Data_Entry_2017.csv`` (or ``Data_Entry_2017_v2020.csv``), and the images in ``images/`` or in
``images_001/images/`` to ``images_012/images/``. If ``test_list.txt`` exists, its images are the test set. Findings
that include pneumonia become ``pneumonia``, ``No Finding`` ``normal``, all others ``other-finding``. Kept as columns:
``finding``, ``follow_up``, ``age``, ``sex``. Source: nihcc.app.box.com/v/ChestXray-NIHCC.
"""

from pathlib import Path

import pandas as pd

from covid_xray.data.importers import image_files, one_file, read_table

_COLUMNS = {
    "Finding Labels": "finding",
    "View Position": "view",
    "Follow-up #": "follow_up",
    "Patient Age": "age",
    "Patient Gender": "sex",
}


def read(source: Path) -> pd.DataFrame:
    """List the images of the table."""
    entries = one_file(source, "Data_Entry_2017.csv", "Data_Entry_2017_v2020.csv")
    table = read_table(entries, ("Image Index", "Finding Labels", "Patient ID", "View Position")).rename(
        columns=_COLUMNS
    )
    folders = sorted(source.glob("images*"))
    places = {file.name: file.relative_to(source).as_posix() for folder in folders for file in image_files(folder)}
    test_list = source / "test_list.txt"
    test = set(test_list.read_text(encoding="utf-8", errors="replace").split()) if test_list.is_file() else set()
    name = table["Image Index"].str.strip()
    extra = [column for column in ("finding", "follow_up", "age", "sex") if column in table]
    return pd.DataFrame(
        {
            "path": [places.get(image, f"images/{image}") for image in name],
            "label": table["finding"].map(label_of),
            "patient_id": "nih-" + table["Patient ID"].str.strip().str.zfill(8),
            "source": "nih-chestxray8",
            "view": table["view"].str.strip(),
            "split": ["test" if image in test else "" for image in name],
            "row": table["row"],
            **{column: table[column].str.strip() for column in extra},
        }
    )


def label_of(findings: str) -> str:
    """Return the class of findings that are joined by ``|``."""
    names = [name.strip().lower() for name in findings.split("|")]
    if names == [""]:
        return ""
    return "pneumonia" if "pneumonia" in names else "normal" if names == ["no finding"] else "other-finding"
