r"""Paediatric pneumonia (Kermany, Zhang and Goldbaum 2018), as "chest_xray" is laid out on Kaggle.

Layout: ``train|val|test/NORMAL|PNEUMONIA/``, given as is or inside ``chest_xray/``. The file name holds the patient:
``person123_virus_456.jpeg``, ``IM-0115-0001.jpeg``, ``NORMAL2-IM-0115-0001.jpeg``. Bacterial or viral is kept in the
column ``pathogen``. Source: data.mendeley.com/datasets/rscbjbr9sj.

The same number occurs again: ``person100_bacteria`` (test) and ``person100_virus`` (train), ``NORMAL2-IM-0374`` (test)
and ``IM-0374`` (train). Nobody has published whether those are the same children. The names speak against it: bacteria
and virus each count persons and images from 1, close to without gaps, and the publisher's test set is made of whole
stretches of numbers of one pathogen (bacteria 78 to 175, virus 1 to 79 and from 1610). COVID-Net, who listed these
images in COVIDx 1, gave equal numbers one patient id. Here they count as the same child, because that error only makes
a split by patient a little coarser, and the other one would leak. Its price: training refuses the publisher's split.
Take ``splits=none`` for a new one by patient; or, who trusts that the numbers are separate,
``patient_regex='^(person\d+_[a-z]+|(?:NORMAL2-)?IM-\d+)'``.
"""

import re
from pathlib import Path

import pandas as pd

from covid_xray.data.importers import class_folders, image_files, with_others
from covid_xray.data.manifest import SPLIT_NAMES
from covid_xray.errors import UserError

_LABELS = {"normal": "normal", "pneumonia": "pneumonia"}
_PERSON = re.compile(r"^(person\d+)_(bacteria|virus)_\d+$", re.IGNORECASE)
_NORMAL = re.compile(r"^(?:NORMAL\d*-)?(IM-\d+)(?:-\d+)+$", re.IGNORECASE)
# The names in the original publication: NORMAL-1003233-0001, BACTERIA-1008087-0001, VIRUS-1008087-0001.
_MENDELEY = re.compile(r"^(?:NORMAL|BACTERIA|VIRUS)-(\d+)-\d+$", re.IGNORECASE)


def read(source: Path) -> pd.DataFrame:
    """List the images of every split."""
    root = source / "chest_xray" if (source / "chest_xray").is_dir() else source
    splits = [name for name in ("train", "val", "test") if (root / name).is_dir()]
    if not splits:
        raise UserError(f"source={source} has no folders train, val or test; give the folder chest_xray")
    rows = []
    for split in splits:
        for folder, label in class_folders(root / split, _LABELS):
            for file in image_files(folder):
                path = file.relative_to(source).as_posix()
                patient = patient_of(file.stem)
                rows.append((path, label, patient, "kermany", "AP", SPLIT_NAMES[split], pathogen_of(file.stem)))
    columns = ["path", "label", "patient_id", "source", "view", "split", "pathogen"]
    return with_others(pd.DataFrame(rows, columns=columns), source)


def patient_of(stem: str) -> str:
    """Patient in a file name; empty if it has none."""
    match = _PERSON.match(stem) or _NORMAL.match(stem) or _MENDELEY.match(stem)
    return f"kermany-{match[1]}" if match else ""


def pathogen_of(stem: str) -> str:
    """``bacteria``, ``virus`` or nothing."""
    match = re.search(r"bacteria|virus", stem, re.IGNORECASE)
    return match[0].lower() if match else ""
