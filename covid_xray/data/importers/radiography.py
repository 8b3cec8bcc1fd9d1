"""COVID-19 Radiography Database (Chowdhury et al. 2020, Rahman et al. 2021).

Layout: ``COVID``, ``Normal``, ``Lung_Opacity``, ``Viral Pneumonia``, each with ``images/`` and ``masks/`` (not read)
or, in early versions, with the images themselves; directly in the source or in ``COVID-19_Radiography_Dataset/``.
Patients are not published. Every image is its own patient, so images of one patient may be in two splits; the audit
finds only those that are near duplicates. Source: kaggle.com/datasets/tawsifurrahman/covid19-radiography-database.
"""

from pathlib import Path

import pandas as pd

from covid_xray.data.importers import class_folders, image_files, reject_others

_LABELS = {
    **dict.fromkeys(("covid", "covid-19"), "covid-19"),
    "normal": "normal",
    "lung_opacity": "lung-opacity",
    "viral pneumonia": "viral-pneumonia",
}


def read(source: Path) -> pd.DataFrame:
    """List the images of the four folders."""
    inside = source / "COVID-19_Radiography_Dataset"
    root = inside if inside.is_dir() else source
    rows = []
    for folder, label in class_folders(root, _LABELS):
        images = folder / "images"
        for file in image_files(images if images.is_dir() else folder):
            rows.append((file.relative_to(source).as_posix(), label, "", "covid19-radiography", ""))
    table = pd.DataFrame(rows, columns=["path", "label", "patient_id", "source", "view"])
    return reject_others(table, source, ignored=("masks",))
