"""PadChest (Bustos et al. 2020).

Layout: ``PADCHEST_chest_x_ray_images_labels_160K_01.02.19.csv`` (also as ``.csv.gz``) with ``ImageID``, ``ImageDir``,
``PatientID``, ``Projection``, ``Labels`` (a list such as ``['pneumonia', 'unchanged']``) and ``MethodLabel`` (kept as
``method``: labels by a physician or by a network), and ``<ImageDir>/<ImageID>``. Images with the projection EXCLUDE or
without labels are rejected. `covid_xray.data.importers.findings` makes classes of the labels; by default pneumonia and
atypical pneumonia are ``pneumonia`` and normal ``normal``. Source: bimcv.cipf.es/bimcv-projects/padchest.
"""

import re
from pathlib import Path

import pandas as pd

from covid_xray.data.importers import one_file, read_table

CLASSES = {"pneumonia": "pneumonia", "atypical pneumonia": "pneumonia", "normal": "normal"}
_TABLE = "PADCHEST_chest_x_ray_images_labels_160K_01.02.19.csv"
_LABEL = re.compile(r"""['"]([^'"]+)['"]""")
_EXTRA = {"MethodLabel": "method", "PatientSex_DICOM": "sex", "Pediatric": "pediatric"}


def read(source: Path) -> pd.DataFrame:
    """List the images of the table."""
    columns = ("ImageID", "ImageDir", "PatientID", "Projection", "Labels")
    table = read_table(one_file(source, _TABLE, f"{_TABLE}.gz"), columns)
    image, folder, patient, view, labels = (table[column].str.strip() for column in columns)
    findings = labels.map(lambda text: "|".join(name.strip() for name in _LABEL.findall(text) if name.strip()))
    reason = pd.Series("", index=table.index).mask(findings == "", "its labels are missing")
    return pd.DataFrame(
        {
            "path": (folder.str.removesuffix(".0") + "/" + image).where(folder != "", image),
            "patient_id": ("padchest-" + patient).where(patient != "", ""),
            "source": "padchest",
            "view": view,
            "row": table["row"],
            "reason": reason.mask(view.str.upper() == "EXCLUDE", "its projection is EXCLUDE"),
            "findings": findings,
            "uncertain": "",
            **{new: table[old].str.strip() for old, new in _EXTRA.items() if old in table},
        }
    )
