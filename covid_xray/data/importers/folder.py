"""Any tree of ``<class>/`` or ``train|val|test/<class>/`` folders.

Every image is its own patient; ``patient_regex`` reads patients from the file names or folders. Files outside the
class folders are rejected.
"""

from pathlib import Path

import pandas as pd

from covid_xray.data.folder import list_folder


def read(source: Path) -> pd.DataFrame:
    """List the images of the class folders."""
    table, left_out = list_folder(source)
    rejected = pd.DataFrame({"path": list(left_out), "reason": list(left_out.values())}, dtype=str)
    table = pd.concat([table.drop(columns="file"), rejected], ignore_index=True).fillna("")
    return table.assign(source=source.resolve().name, view="")
