"""A data set of your own: all images in one folder, named PATIENT_NUMBER_CLASS.png."""

from pathlib import Path

import pandas as pd

from covid_xray import UserError, check_records


def read_names(root: str) -> pd.DataFrame:
    """Read the class and the patient of each image from its name.

    Args:
        root: The folder.

    Raises:
        UserError: If a name has another form.
    """
    rows = []
    for file in sorted(Path(root).glob("*.png")):
        parts = file.stem.split("_", 2)
        if len(parts) < 3:
            raise UserError(f"{file} is not named PATIENT_NUMBER_CLASS.png; rename it")
        patient, _, label = parts
        rows.append({"path": file.name, "file": str(file.absolute()), "label": label, "patient_id": patient})
    if not rows:
        raise UserError(f"data.root={root} has no PNG images; give another folder")
    records = check_records(pd.DataFrame(rows))
    # With this, a run that Python trained finds its images again.
    records.attrs["reader"] = {"_target_": "my_records.read_names", "root": root}
    return records
