"""Any ``<class>/`` or ``train|val|test/<class>/`` tree; every image is its own patient.

Use ``patient_regex`` to find patients in the file names. What lies outside the folders of classes is rejected by name.
"""

from pathlib import Path

import pandas as pd

from covid_xray.data.folder import list_folder


def read(source: Path) -> pd.DataFrame:
    """List the images by class folder."""
    table, left_out = list_folder(source)
    rejected = pd.DataFrame({"path": list(left_out), "reason": list(left_out.values())}, dtype=str)
    table = pd.concat([table.drop(columns="file"), rejected], ignore_index=True).fillna("")
    return table.assign(source=source.resolve().name, view="")
