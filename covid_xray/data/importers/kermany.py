r"""Paediatric pneumonia (Kermany, Zhang and Goldbaum 2018), in the layout of "chest_xray" on Kaggle.

Layout: ``train|val|test/NORMAL|PNEUMONIA/``, directly in the source or in ``chest_xray/``. The file name contains the
patient: ``person123_virus_456.jpeg``, ``IM-0115-0001.jpeg``, ``NORMAL2-IM-0115-0001.jpeg``. The column ``pathogen``
holds ``bacteria`` or ``virus``. Source: data.mendeley.com/datasets/rscbjbr9sj.

Some numbers occur twice: ``person100_bacteria`` (test) and ``person100_virus`` (train), ``NORMAL2-IM-0374`` (test) and
``IM-0374`` (train). It is not published whether they are the same children. The names suggest that they are not:
bacteria and virus each number persons and images from 1, almost without gaps, and the publisher's test set consists of
contiguous ranges of numbers of one pathogen (bacteria 78 to 175, virus 1 to 79 and from 1610). COVID-Net, which listed
these images in COVIDx 1, gave equal numbers one patient id.

This importer treats equal numbers as the same child. If that is wrong, a split by patient is only a little coarser; the
opposite error would leak. As a consequence, training refuses the publisher's split. Use ``splits=none`` for a new split
by patient. To treat the numbers as different children, use
``patient_regex='^(person\d+_[a-z]+|(?:NORMAL2-)?IM-\d+)'``.
"""

import re
from pathlib import Path

import pandas as pd

from covid_xray.data.importers import class_folders, image_files, reject_others, split_folders
from covid_xray.errors import UserError

_LABELS = {"normal": "normal", "pneumonia": "pneumonia"}
_PERSON = re.compile(r"^(person\d+)_(bacteria|virus)_\d+$", re.IGNORECASE)
_NORMAL = re.compile(r"^(?:NORMAL\d*-)?(IM-\d+)(?:-\d+)+$", re.IGNORECASE)
# Names in the original publication: NORMAL-1003233-0001, BACTERIA-1008087-0001, VIRUS-1008087-0001.
_MENDELEY = re.compile(r"^(?:NORMAL|BACTERIA|VIRUS)-(\d+)-\d+$", re.IGNORECASE)


def read(source: Path) -> pd.DataFrame:
    """List the images of all splits."""
    root = source / "chest_xray" if (source / "chest_xray").is_dir() else source
    splits = split_folders(root)
    if not splits:
        raise UserError(f"source={source} contains no folders train, val or test; give the folder chest_xray")
    rows = []
    for place, split in splits:
        for folder, label in class_folders(place, _LABELS):
            for file in image_files(folder):
                path = file.relative_to(source).as_posix()
                patient = patient_of(file.stem)
                rows.append((path, label, patient, "kermany", "AP", split, pathogen_of(file.stem)))
    columns = ["path", "label", "patient_id", "source", "view", "split", "pathogen"]
    return reject_others(pd.DataFrame(rows, columns=columns), source)


def patient_of(stem: str) -> str:
    """Return the patient in a file name; empty if it contains none."""
    match = _PERSON.match(stem) or _NORMAL.match(stem) or _MENDELEY.match(stem)
    return f"kermany-{match[1]}" if match else ""


def pathogen_of(stem: str) -> str:
    """Return the pathogen in a file name: ``bacteria``, ``virus`` or empty."""
    match = re.search(r"bacteria|virus", stem, re.IGNORECASE)
    return match[0].lower() if match else ""
