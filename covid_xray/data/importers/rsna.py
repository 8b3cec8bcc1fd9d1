"""RSNA Pneumonia Detection Challenge 2018 (Shih et al. 2019): DICOM.

Layout: ``stage_2_train_images/<patientId>.dcm`` and ``stage_2_train_labels.csv`` (``patientId``, box, ``Target``; one
row per box). If ``stage_2_detailed_class_info.csv`` exists, the classes are ``normal``, ``pneumonia`` (Lung Opacity)
and ``abnormal-no-opacity``. Otherwise they are ``pneumonia`` and ``no-pneumonia``: not all of the latter are normal.
One image per patient. The view is read from the DICOM file.
Source: kaggle.com/c/rsna-pneumonia-detection-challenge.
"""

from pathlib import Path

import pandas as pd

from covid_xray.data.images.dicom import read_view
from covid_xray.data.importers import one_file, read_table

_CLASSES = {
    "normal": "normal",
    "lung opacity": "pneumonia",
    "no lung opacity / not normal": "abnormal-no-opacity",
}


def read(source: Path) -> pd.DataFrame:
    """List the training images; the test images have no labels."""
    labels = read_table(one_file(source, "stage_2_train_labels.csv"), ("patientId", "Target"))
    boxes = labels[labels["Target"] == "1"].groupby("patientId").size()
    table = labels.drop_duplicates("patientId").set_index("patientId")
    label = table["Target"].map({"1": "pneumonia", "0": "no-pneumonia"})
    details = source / "stage_2_detailed_class_info.csv"
    if details.is_file():
        classes = read_table(details, ("patientId", "class")).drop_duplicates("patientId").set_index("patientId")
        label = classes["class"].str.lower().map(_CLASSES).reindex(table.index)
    paths = "stage_2_train_images/" + table.index + ".dcm"
    return pd.DataFrame(
        {
            "path": paths,
            "label": label.fillna("").to_numpy(),
            "patient_id": "rsna-" + table.index,
            "source": "rsna-pneumonia-challenge",
            "view": [read_view(source / path) for path in paths],
            "row": table["row"].to_numpy(),
            "boxes": boxes.reindex(table.index, fill_value=0).astype(str).to_numpy(),
        }
    )
