"""COVID-QU-Ex (Tahir et al. 2021).

Layout: ``Lung Segmentation Data/`` (all images) with ``Train|Val|Test/COVID-19|Non-COVID|Normal/images/``, perhaps in
a second folder of the same name; masks are not read. ``Infection Segmentation Data/`` repeats some of the images in
another split, and is read only if the source is that folder. Non-COVID (viral or bacterial) becomes ``pneumonia``.
Patients are not published: every image is its own patient, so one patient may be in two splits; the audit finds only
near duplicates. Source: kaggle.com/datasets/anasmohammedtahir/covidqu.
"""

from pathlib import Path

import pandas as pd

from covid_xray.data.importers import class_folders, image_files, split_folders
from covid_xray.errors import UserError

_LABELS = {"covid-19": "covid-19", "non-covid": "pneumonia", "normal": "normal"}


def read(source: Path) -> pd.DataFrame:
    """List the images of the three splits."""
    name = "Lung Segmentation Data"
    places = (source, source / name, source / name / name, source / source.resolve().name)
    root = next((place for place in places if place.is_dir() and split_folders(place)), None)
    if root is None:
        raise UserError(f"source={source} contains no folders Train, Val or Test; give the folder of COVID-QU-Ex")
    rows = [
        (file.relative_to(source).as_posix(), label, "", "covid-qu-ex", "", split)
        for place, split in split_folders(root)
        for folder, label in class_folders(place, _LABELS)
        for file in image_files(folder / "images" if (folder / "images").is_dir() else folder)
    ]
    return pd.DataFrame(rows, columns=["path", "label", "patient_id", "source", "view", "split"])
