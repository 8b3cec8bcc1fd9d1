"""Importers on small trees with the names of the published collections: accepted and rejected images."""

import shlex
import subprocess
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import cv2
import numpy as np
import pandas as pd
import pytest
from dicom_files import dicom_bytes
from hypothesis import given, settings
from hypothesis import strategies as st

from covid_xray.data.images.read import read_image
from covid_xray.data.importers import importer, importers
from covid_xray.data.importers.cohen import label_of as cohen_label
from covid_xray.data.importers.darkcovid import case_of
from covid_xray.data.importers.kermany import pathogen_of, patient_of
from covid_xray.data.importers.nih import label_of as nih_label
from covid_xray.data.manifest import read_manifest
from covid_xray.data.prepare import Prepared, prepare
from covid_xray.errors import UserError

REPOSITORY = Path(__file__).parents[2]
REAL = REPOSITORY.parent / "shared/data/chest-xrays"
PIXELS = np.arange(40 * 50, dtype=np.uint8).reshape(40, 50)


def image(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".dcm":
        path.write_bytes(dicom_bytes(PIXELS, ViewPosition="AP"))
    else:
        cv2.imwrite(str(path), PIXELS)


def tree(root: Path, *names: str) -> Path:
    for name in names:
        image(root / name)
    return root


def text(path: Path, *lines: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def ready(dataset: str, root: Path, **settings: object) -> tuple[Prepared, dict[str, pd.Series]]:
    """Prepare a collection, read its manifest, and return the rows by file name."""
    output = root.parent / f"{root.name}-prepared"
    before = {path: path.lstat().st_mtime_ns for path in root.rglob("*")}
    settings = {"max_rejected": 1} | settings
    prepared = prepare(dataset, root, output, **settings)  # type: ignore[arg-type]
    assert {path: path.lstat().st_mtime_ns for path in root.rglob("*")} == before
    table = read_manifest(prepared.manifest)
    assert len(table) == len(prepared.accepted)
    assert table["sha256"].str.fullmatch(r"[0-9a-f]{64}").all()
    assert set(table["width"]) == {"50"}
    assert set(table["height"]) == {"40"}
    return prepared, {Path(row["path"]).name: row for _, row in table.iterrows()}


def test_every_importer_is_found_and_documented() -> None:
    assert {"cohen", "covidx", "darkcovid", "folder", "kermany", "nih", "radiography", "rsna"} < set(importers())
    for name in importers():
        documentation = __import__(f"covid_xray.data.importers.{name}", fromlist=["read"]).__doc__
        assert documentation is not None
        assert name == "folder" or ("Layout:" in documentation and "Source:" in documentation)
        assert name in (REPOSITORY / "covid_xray/data/importers/README.md").read_text()


def test_folder(tmp_path: Path) -> None:
    root = tree(
        tmp_path / "mine", "train/sick/p1-a.png", "train/well/p2-a.jpg", "test/sick/p3-a.png", "test/well/p4.png"
    )
    _, rows = ready("folder", root, patient_regex=r"(p\d)-")
    assert rows["p1-a.png"][["label", "split", "patient_id", "source"]].tolist() == ["sick", "train", "p1", "mine"]
    assert rows["p4.png"]["patient_id"].endswith("test/well/p4.png")
    prepared, rows = ready("folder", root, splits="none")
    assert set(read_manifest(prepared.manifest)["split"]) == {""}


def test_folder_rejects_other_files(tmp_path: Path) -> None:
    root = tree(tmp_path / "mine", "a/1.png", "b/2.png", "stray.png", "a/._1.png", ".cache/3.png")
    text(root / "a/notes.txt", "")
    text(root / "README.md", "")
    prepared, rows = ready("folder", root)
    assert sorted(rows) == ["1.png", "2.png"]
    left_out = {Path(row["path"]).name: row["reason"] for _, row in prepared.rejected.iterrows()}
    assert left_out == {
        "stray.png": "it is not in a class folder",
        "._1.png": "it is hidden",
        ".cache": "it is hidden",
        "notes.txt": "it does not have the extension of an image",
    }


def test_covidx_three_classes_without_source(tmp_path: Path) -> None:
    sars = "SARS-10.1148rg.242035193-g04mr34g05x-Fig5-day9.jpeg"
    root = tree(tmp_path / "covidx", f"train/{sars}", "train/47c78742-4998.png", "test/COVID-19 (7).png")
    text(root / "train_split.txt", f"8 {sars} pneumonia", "47c78742 47c78742-4998.png normal")
    text(root / "test_split.txt", "P7 COVID-19 (7).png COVID-19", "9 missing.png normal", "this is no line")
    prepared, rows = ready("covidx", root)
    assert {name: row["label"] for name, row in rows.items()} == {
        sars: "pneumonia",
        "47c78742-4998.png": "normal",
        "COVID-19 (7).png": "covid-19",
    }
    assert rows["COVID-19 (7).png"]["split"] == "test"
    assert rows["47c78742-4998.png"]["patient_id"] == "covidx-47c78742"
    rejected = prepared.rejected.set_index("row")["reason"].to_dict()
    assert rejected["test_split.txt:2"] == "No such file or directory"
    assert "not a line of patient" in rejected["test_split.txt:3"]


def test_covidx_of_march_2020(tmp_path: Path) -> None:
    """Lines of archive/train_split_v1.txt and test_split.txt of COVID-Net."""
    sars = "SARS-10.1148rg.242035193-g04mr34g0-Fig8a-day0.jpeg"
    root = tree(tmp_path / "covidx", f"train/{sars}", "train/person1260_bacteria_3218.jpeg")
    tree(root, "train/NORMAL2-IM-1260-0001.jpeg", "test/person1_virus_13.jpeg", "test/lancet-case2a.jpg")
    text(
        root / "train_split_v1.txt",
        f"3 {sars} viral",
        "10001260 person1260_bacteria_3218.jpeg bacteria",
        "10001260 NORMAL2-IM-1260-0001.jpeg normal",
    )
    text(root / "test_split.txt", "10001 person1_virus_13.jpeg viral", "6 lancet-case2a.jpg COVID-19")
    prepared, rows = ready("covidx", root)
    assert prepared.rejected.empty
    assert {name: (row["label"], row["pathogen"], row["patient_id"]) for name, row in rows.items()} == {
        sars: ("pneumonia", "virus", "covidx-3"),
        "person1260_bacteria_3218.jpeg": ("pneumonia", "bacteria", "kermany-person1260"),
        "NORMAL2-IM-1260-0001.jpeg": ("normal", "", "kermany-IM-1260"),
        "person1_virus_13.jpeg": ("pneumonia", "virus", "kermany-person1"),
        "lancet-case2a.jpg": ("covid-19", "", "covidx-6"),
    }


def test_covidx_positive_and_negative(tmp_path: Path) -> None:
    ricord = "MIDRC-RICORD-1C-419639-003251-46647-0.png"
    root = tree(tmp_path / "covidx", f"test/{ricord}", "train/ARDSSevere.png", "val/x.png")
    text(root / "labels/test_COVIDx8B.txt", f"419639-003251 {ricord} positive ricord")
    text(root / "labels/train_COVIDx8B.txt", "5 ARDSSevere.png negative cohen")
    text(root / "labels/val_COVIDx8B.txt", "A1 x.png negative bimcv")
    _, rows = ready("covidx", root)
    assert rows[ricord][["label", "source", "patient_id"]].tolist() == ["positive", "ricord", "ricord-419639-003251"]
    assert rows["ARDSSevere.png"]["patient_id"] == "cohen-5"
    assert rows["x.png"]["split"] == "val"
    text(root / "train.txt", "5 ARDSSevere.png negative cohen")
    with pytest.raises(UserError, match="several train lists"):
        ready("covidx", root)


def test_covidx_patients_of_two_words(tmp_path: Path) -> None:
    """Lines of COVIDx 7A to 8B: the patients of SIRM, and their file names, may contain a blank."""
    root = tree(tmp_path / "covidx", "Train/COVID(1).png", "Train/COVID-19 (2).png", "Train/n.png")
    lines = [
        "COVID 1 COVID(1).png COVID-19 sirm",
        "COVID-19 2 COVID-19 (2).png COVID-19 sirm",
        "aa-1 n.png normal rsna",
    ]
    text(root / "Train_COVIDx7A.txt", *lines)
    prepared, rows = ready("covidx", root)
    assert prepared.rejected.empty
    assert {name: (row["label"], row["patient_id"], row["split"]) for name, row in rows.items()} == {
        "COVID(1).png": ("covid-19", "sirm-COVID 1", "train"),
        "COVID-19 (2).png": ("covid-19", "sirm-COVID-19 2", "train"),
        "n.png": ("normal", "rsna-aa-1", "train"),
    }


def test_covidx_lists_without_images(tmp_path: Path) -> None:
    root = tmp_path / "lists"
    sirm = ["COVID 1 COVID(1).png COVID-19 sirm", "COVID 2 COVID-19 (2).png COVID-19 sirm"]
    text(root / "train.txt", *sirm, "3 n.png normal")
    text(root / "test.txt", "P7 COVID-19 (7).png COVID-19", "4 m.png normal cohen", "4 m.png normal cohen")
    sentence = "1 of 6 images .* listed a second time"
    with pytest.raises(UserError, match=sentence):
        prepare("covidx", root, tmp_path / "prepared", lists_only=True)
    prepared = prepare("covidx", root, tmp_path / "prepared", lists_only=True, max_rejected=0.2)
    table = read_manifest(prepared.manifest, images=False)
    assert table[["patient_id", "split"]].apply(tuple, axis=1).tolist() == [
        ("covidx-P7", "test"),
        ("cohen-4", "test"),
        ("sirm-COVID 1", "train"),
        ("sirm-COVID 2", "train"),
        ("covidx-3", "train"),
    ]
    assert not {"width", "height", "sha256"} & set(table.columns)
    with pytest.raises(UserError, match="lists_only must be true or false"):
        prepare("covidx", root, tmp_path / "prepared", lists_only="yes")  # type: ignore[arg-type]


def test_covidx_positive_among_three_classes(tmp_path: Path) -> None:
    root = tree(tmp_path / "covidx", *(f"train/{name}.png" for name in "abcd"))
    text(
        root / "train.txt",
        "1 a.png normal rsna",
        "2 b.png pneumonia rsna",
        "3 c.png positive bimcv",
        "4 d.png negative x",
    )
    prepared, rows = ready("covidx", root)
    assert {name: row["label"] for name, row in rows.items()} == {
        "a.png": "normal",
        "b.png": "pneumonia",
        "c.png": "covid-19",
    }
    assert prepared.rejected["reason"].tolist() == ["its class is negative, in a list of three classes"]


def test_every_importer_refuses_to_lose_many_images(tmp_path: Path) -> None:
    root = tree(tmp_path / "covidx", *(f"train/{number}.png" for number in range(20)))
    lines = [f"{number} {number}.png normal x" for number in range(22)]
    text(root / "train.txt", *lines)
    sentence = r"dataset=covidx: 2 of 22 images \(9.1%\) are rejected.*max_rejected=0.1$"
    with pytest.raises(UserError, match=sentence):
        ready("covidx", root, max_rejected=0.05)
    assert not (tmp_path / "covidx-prepared/manifest.csv").exists()
    assert len(pd.read_csv(tmp_path / "covidx-prepared/rejected.csv")) == 2
    assert len(ready("covidx", root, max_rejected=0.1)[1]) == 20


def test_kermany_splits_in_any_case(tmp_path: Path) -> None:
    root = tree(tmp_path / "k", "Train/NORMAL/IM-0115-0001.jpeg", "VAL/Normal/IM-0116-0001.jpeg")
    assert [row["split"] for row in ready("kermany", root)[1].values()] == ["train", "val"]


METADATA = "patientid,offset,sex,age,finding,RT_PCR_positive,view,modality,date,location,folder,filename,url"


def test_cohen(tmp_path: Path) -> None:
    root = tree(
        tmp_path / "cohen",
        "images/a.jpg",
        "images/b.png",
        "images/c.png",
        "images/d.jpg",
        "images/l.png",
        "images/u.png",
    )
    text(
        root / "metadata.csv",
        METADATA,
        '2,0,M,65,Pneumonia/Viral/COVID-19,Y,PA,X-ray,2020,"Cho Ray Hospital, Vietnam",images,a.jpg,',
        "2,3,M,65,Pneumonia/Viral/COVID-19,Y,AP Supine,X-ray,2020,,images,b.png,",
        "9,,,,No Finding,,PA,X-ray,,,images,c.png,",
        "8,,,,Pneumonia/Bacterial/Streptococcus,,PA,X-ray,,,images,d.jpg,",
        "7,,,,Tuberculosis,,L,X-ray,,,images,l.png,",
        "6,,,,todo,,PA,X-ray,,,images,u.png,",
        "5,,,,Pneumonia/Viral/COVID-19,Y,Axial,CT,,,volumes,v.nii.gz,",
        "4,,,,Pneumonia,,PA,X-ray,,,images,gone.png,",
        "3,,,,Pneumonia,,PA,X-ray,,,images,../../outside.png,",
        "2,0,M,65,Pneumonia/Viral/COVID-19,Y,PA,X-ray,2020,,images,a.jpg,",
    )
    image(tmp_path / "outside.png")
    prepared, rows = ready("cohen", root)
    assert {name: row["label"] for name, row in rows.items()} == {
        **{"a.jpg": "covid-19", "b.png": "covid-19", "c.png": "normal", "d.jpg": "pneumonia", "l.png": "tuberculosis"}
    }
    assert rows["a.jpg"]["patient_id"] == rows["b.png"]["patient_id"] == "cohen-2"
    assert rows["b.png"]["view"] == "AP Supine"
    assert rows["b.png"]["offset"] == "3"
    assert rows["a.jpg"]["location"] == "Cho Ray Hospital, Vietnam"
    reasons = prepared.rejected.set_index("row")["reason"].to_dict()
    assert reasons["7"] == "its finding is not known"
    assert reasons["8"] == "it is a CT, not an X-ray"
    assert reasons["9"] == "No such file or directory"
    assert reasons["10"] == "it is outside the source"
    assert reasons["11"] == "it is listed a second time"
    assert len(prepared.accepted) + len(prepared.rejected) == 10
    _, frontal = ready("cohen", root, views=["pa", "AP Supine"])
    assert "l.png" not in frontal


def test_cohen_as_it_was_in_march_2020(tmp_path: Path) -> None:
    root = tree(tmp_path / "cohen", "images/a.jpg", "images/sars.jpg", "images/ct.jpg")
    text(
        root / "metadata.csv",
        "Patientid,offset,sex,age,finding,survival,view,date,location,filename,doi, url,license,notes",
        "17,9,M,54,COVID-19,Y,AP,2020,,a.jpg,,,,",
        "3,4,M,74,SARS,N,PA,2004,,sars.jpg,,,,",
        "17,9,M,54,COVID-19,Y,CT,2020,,ct.jpg,,,,",
    )
    prepared, rows = ready("cohen", root)
    assert {name: row["label"] for name, row in rows.items()} == {"a.jpg": "covid-19", "sars.jpg": "pneumonia"}
    assert prepared.rejected["reason"].tolist() == ["it is a CT, not an X-ray"]


def test_darkcovid(tmp_path: Path) -> None:
    names = ("No_findings/00002658_001.png", "No_findings/00002658_002.png", "Pneumonia/00002658_003.png")
    covid = ("Covid-19/lancet-case2a.jpg", "Covid-19/lancet-case2b.jpg", "Covid-19/nejmoa2001191_f1-PA.jpeg")
    root = tree(tmp_path / "X-Ray Image DataSet", *names, *covid)
    _, rows = ready("darkcovid", root)
    assert {rows[f"00002658_00{number}.png"]["patient_id"] for number in (1, 2, 3)} == {"nih-00002658"}
    assert rows["lancet-case2a.jpg"]["patient_id"] == rows["lancet-case2b.jpg"]["patient_id"] == "cohen-lancet-case2"
    assert rows["lancet-case2a.jpg"]["label"] == "covid-19"
    assert rows["00002658_001.png"][["label", "source"]].tolist() == ["normal", "nih-chestxray8"]
    text(root / "metadata.csv", METADATA, "6,0,,,COVID-19,Y,PA,X-ray,,,images,lancet-case2a.jpg,")
    image(root / "Other/1.png")
    (tmp_path / "repository").mkdir()
    root.rename(tmp_path / "repository/X-Ray Image DataSet")
    prepared, rows = ready("darkcovid", tmp_path / "repository")
    assert prepared.rejected["reason"].tolist() == ["it is outside the collection's folders"]
    assert rows["lancet-case2a.jpg"][["patient_id", "view"]].tolist() == ["cohen-6", "PA"]


@pytest.mark.parametrize(
    ("stems", "case"),
    [
        (("covid-19-pneumonia-rapidly-progressive-12-hours", "covid-19-pneumonia-rapidly-progressive-3-days"), ""),
        (("nejmoa2001191_f1-PA", "nejmoa2001191_f4", "nejmoa2001191_f5-L"), "nejmoa2001191"),
        (("ryct.2020200034.fig5-day0", "ryct.2020200034.fig5-day4"), "ryct.2020200034"),
        (("1-s2.0-S0929664620300449-gr2_lrg-a", "1-s2.0-S0929664620300449-gr2_lrg-d"), ""),
        (("auntminnie-a-2020_01_28_Vietnam", "auntminnie-c-2020_01_28_Vietnam"), "auntminnie-2020_01_28_Vietnam"),
        (("covid-19-pneumonia-7-PA", "covid-19-pneumonia-7-L"), "covid-19-pneumonia-7"),
        (("31BA3780-2323-493F-8AED-62081B9C383B",), "31BA3780-2323-493F-8AED-62081B9C383B"),
    ],
)
def test_darkcovid_cases(stems: tuple[str, ...], case: str) -> None:
    found = {case_of(stem) for stem in stems}
    assert len(found) == 1
    assert not case or found == {case}


@pytest.mark.parametrize("inside", ["", "chest_xray/"])
def test_kermany(inside: str, tmp_path: Path) -> None:
    names = ("train/PNEUMONIA/person123_virus_456.jpeg", "test/PNEUMONIA/person123_bacteria_9.jpeg")
    normal = (
        "train/NORMAL/IM-0115-0001.jpeg",
        "train/NORMAL/NORMAL2-IM-0115-0001.jpeg",
        "val/NORMAL/IM-0539-0001-0002.jpeg",
    )
    root = tree(tmp_path / "kermany", *(inside + name for name in (*names, *normal)))
    text(root / f"{inside}train/PNEUMONIA/.DS_Store", "")
    # The archive on Kaggle contains all files twice, and hidden files of macOS.
    tree(root, f"{inside}copy/train/NORMAL/IM-0115-0001.jpeg", "__MACOSX/._IM-0115-0001.jpeg")
    image(root / f"{inside}train/NORMAL/._IM-0115-0001.jpeg")
    prepared, rows = ready("kermany", root)
    assert rows["person123_virus_456.jpeg"][["patient_id", "pathogen"]].tolist() == ["kermany-person123", "virus"]
    assert rows["person123_bacteria_9.jpeg"][["patient_id", "split"]].tolist() == ["kermany-person123", "test"]
    assert rows["IM-0115-0001.jpeg"]["patient_id"] == "kermany-IM-0115"
    assert rows["NORMAL2-IM-0115-0001.jpeg"]["patient_id"] == "kermany-IM-0115"
    assert rows["IM-0539-0001-0002.jpeg"][["patient_id", "split", "label"]].tolist() == [
        "kermany-IM-0539",
        "val",
        "normal",
    ]
    assert prepared.rejected["path"].str.endswith(f"{inside}copy/train/NORMAL/IM-0115-0001.jpeg").tolist() == [True]
    apart = r"^(person\d+_[a-z]+|(?:NORMAL2-)?IM-\d+)"  # as in the docstring of the importer
    assert apart in (__import__("covid_xray.data.importers.kermany", fromlist=["read"]).__doc__ or "")
    _, rows = ready("kermany", root, patient_regex=apart)
    assert len({row["patient_id"] for row in rows.values()}) == 5


def test_radiography(tmp_path: Path) -> None:
    top = "COVID-19_Radiography_Dataset"
    kinds = {
        "COVID": "covid-19",
        "Normal": "normal",
        "Lung_Opacity": "lung-opacity",
        "Viral Pneumonia": "viral-pneumonia",
    }
    names = [f"{top}/{kind}/{part}/{kind}-1.png" for kind in kinds for part in ("images", "masks")]
    root = tree(tmp_path / "radiography", *names)
    text(root / f"{top}/COVID.metadata.xlsx", "")
    for source in (root, root / top):
        _, rows = ready("radiography", source)
        assert {name: row["label"] for name, row in rows.items()} == {f"{kind}-1.png": kinds[kind] for kind in kinds}
        assert not any("masks" in row["path"] for row in rows.values())
        assert len({row["patient_id"] for row in rows.values()}) == 4


def test_rsna(tmp_path: Path) -> None:
    root = tree(tmp_path / "rsna", *(f"stage_2_train_images/{name}.dcm" for name in ("aa", "bb", "cc")))
    labels = ("patientId,x,y,width,height,Target", "aa,,,,,0", "bb,1,2,3,4,1", "bb,5,6,7,8,1", "cc,,,,,0", "gone,,,,,0")
    text(root / "stage_2_train_labels.csv", *labels)
    prepared, rows = ready("rsna", root)
    assert {name: row["label"] for name, row in rows.items()} == {
        **{"aa.dcm": "no-pneumonia", "bb.dcm": "pneumonia", "cc.dcm": "no-pneumonia"}
    }
    assert rows["bb.dcm"][["patient_id", "view", "boxes"]].tolist() == ["rsna-bb", "AP", "2"]
    assert prepared.rejected["reason"].tolist() == ["No such file or directory"]
    details = ("patientId,class", "aa,Normal", "bb,Lung Opacity", "bb,Lung Opacity", "cc,No Lung Opacity / Not Normal")
    text(root / "stage_2_detailed_class_info.csv", *details)
    _, rows = ready("rsna", root)
    assert [rows[f"{name}.dcm"]["label"] for name in ("aa", "bb", "cc")] == [
        "normal",
        "pneumonia",
        "abnormal-no-opacity",
    ]
    assert "Doe" not in prepared.manifest.read_text()
    assert np.array_equal(read_image(rows["aa.dcm"]["file"]), PIXELS)


def test_nih(tmp_path: Path) -> None:
    root = tree(tmp_path / "nih", "images_001/images/00000001_000.png", "images_002/images/00000002_000.png")
    tree(root, "images_002/images/00000002_001.png")
    text(
        root / "Data_Entry_2017.csv",
        "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position,"
        "OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y],",
        "00000001_000.png,Cardiomegaly|Emphysema,0,1,58,M,PA,2682,2749,0.143,0.143,",
        "00000002_000.png,No Finding,1,2,81,M,PA,2500,2048,0.171,0.171,",
        "00000002_001.png,Infiltration|Pneumonia,2,2,81,M,AP,2500,2048,0.171,0.171,",
        "00000003_000.png,Hernia,0,3,81,F,PA,2582,2991,0.143,0.143,",
    )
    text(root / "test_list.txt", "00000002_000.png", "00000002_001.png")
    prepared, rows = ready("nih", root)
    assert {name: (row["label"], row["patient_id"], row["split"]) for name, row in rows.items()} == {
        "00000001_000.png": ("other-finding", "nih-00000001", ""),
        "00000002_000.png": ("normal", "nih-00000002", "test"),
        "00000002_001.png": ("pneumonia", "nih-00000002", "test"),
    }
    assert rows["00000002_001.png"][["view", "finding"]].tolist() == ["AP", "Infiltration|Pneumonia"]
    assert prepared.rejected["row"].tolist() == ["5"]


@pytest.mark.parametrize("dataset", ["cohen", "covidx", "darkcovid", "folder", "kermany", "nih", "radiography", "rsna"])
def test_wrong_folder(dataset: str, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=str(tmp_path)):
        prepare(dataset, tmp_path / "empty", tmp_path / "out")
    with pytest.raises(UserError, match="not a folder"):
        prepare(dataset, tmp_path / "missing", tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("settings", "word"),
    [
        ({"splits": "some"}, "splits"),
        ({"min_size": 0}, "min_size"),
        ({"min_size": True}, "min_size"),
        ({"patient_regex": "("}, "regex"),
    ],
)
def test_wrong_settings(settings: dict[str, object], word: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=word):
        prepare("folder", tree(tmp_path / "in", "a/1.png"), tmp_path / "out", **settings)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="use one of actualmed"):
        prepare("nothing", tmp_path, tmp_path)


def test_bad_images_are_rejected_with_their_reason(tmp_path: Path) -> None:
    root = tree(tmp_path / "in", "a/good.png", "b/good.png", "a/with space, comma.png", "b/line\nbreak.png")
    (root / "a/text.png").write_text("no image")
    (root / "a/empty.png").touch()
    (root / "b/loop.png").symlink_to(root / "b/loop.png")
    (root / "b/cut.png").write_bytes((root / "b/good.png").read_bytes()[:-20])
    cv2.imwrite(str(root / "b/tiny.png"), np.zeros((1, 1), np.uint8))
    prepared, rows = ready("folder", root)
    assert sorted(rows) == ["good.png", "with space, comma.png"]
    reasons = {Path(row["path"]).name: row["reason"] for _, row in prepared.rejected.iterrows()}
    assert "control character" in reasons["line\nbreak.png"]
    assert reasons["text.png"] == "it is no image of a known format"
    assert reasons["empty.png"] == "it is empty"
    assert reasons["cut.png"] == "it is truncated"
    assert "min_size=32" in reasons["tiny.png"]
    assert "symbolic links" in reasons["loop.png"]
    assert pd.read_csv(tmp_path / "in-prepared/rejected.csv")["reason"].tolist() == prepared.rejected["reason"].tolist()


def test_no_usable_images(tmp_path: Path) -> None:
    (tmp_path / "in/a").mkdir(parents=True)
    (tmp_path / "in/a/x.png").touch()
    with pytest.raises(UserError, match=r"1 rejected.*x\.png: it is empty"):
        prepare("folder", tmp_path / "in", tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["rejected.csv"]


def test_manifest_can_be_moved_with_its_images(tmp_path: Path) -> None:
    tree(tmp_path / "all/in", "a/1.png", "b/2.png")
    (tmp_path / "link").symlink_to(tmp_path / "all", target_is_directory=True)
    prepare("folder", tmp_path / "link/in", tmp_path / "link/out")
    (tmp_path / "all").rename(tmp_path / "moved")
    assert len(read_manifest(tmp_path / "moved/out/manifest.csv")) == 2


def test_output_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("a file")
    with pytest.raises(UserError, match="cannot be written"):
        prepare("folder", tree(tmp_path / "in", "a/1.png"), tmp_path / "out")


def test_number_of_threads_does_not_change_the_result(tmp_path: Path) -> None:
    root = tree(tmp_path / "in", *(f"{number % 2}/{number}.png" for number in range(230)))
    (root / "0/0.png").write_text("no image")
    tables = []
    for workers in (1, 2):
        prepare("folder", root, tmp_path / "out", workers=workers)
        tables.append([(tmp_path / f"out/{name}.csv").read_bytes() for name in ("manifest", "rejected")])
    assert tables[0] == tables[1]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["manifest.csv", "rejected.csv"]


def test_command(covid_xray: Callable[..., subprocess.CompletedProcess[str]], workplace: Path) -> None:
    root = tree(workplace / "collection", *(f"{label}/{number}.png" for label in "ab" for number in range(3)))
    (root / "a/broken.png").write_text("no image")
    before = set(workplace.iterdir())
    refused = covid_xray("prepare", "dataset=folder", f"source={root}", "output=ready")
    assert refused.returncode == 2
    assert "dataset=folder: 1 of 7 images (14.3%) are rejected, more than max_rejected=0.05" in refused.stderr
    assert not (workplace / "ready/manifest.csv").exists()
    advised = refused.stderr.strip().rsplit(" ", 1)[1]
    assert advised == "max_rejected=0.15"
    done = covid_xray("prepare", "dataset=folder", f"source={root}", "output=ready", advised)
    assert done.returncode == 0, done.stderr
    assert "Rejected: 1 x it is no image of a known format" in done.stdout
    assert "Rejected in total: 1 of 7" in done.stdout
    assert set(workplace.iterdir()) - before <= {workplace / "ready", workplace / "data"}  # with the cache of the audit
    wrong = covid_xray("prepare", "dataset=none", f"source={root}", "output=ready")
    assert wrong.returncode == 2
    assert wrong.stderr.startswith("covid-xray: dataset='none' is not known; use one of actualmed")


def test_paths_with_special_characters_of_hydra(
    covid_xray: Callable[..., subprocess.CompletedProcess[str]], workplace: Path
) -> None:
    odd = "o'ü [1]=a, b"
    tree(workplace / odd, "a/1.png", "b/2.png")
    typed_as_it_is = covid_xray("prepare", "dataset=folder", f"source={odd}", "output=odd")
    assert typed_as_it_is.returncode == 0, typed_as_it_is.stderr
    done = covid_xray("prepare", "dataset=folder", f'source="{odd}"', f'output="{odd}/out"')
    assert done.returncode == 0, done.stderr
    typed = shlex.split(done.stdout.splitlines()[-1].removeprefix("Train:"))
    assert typed[-1] == f'data.manifest="{odd}/out/manifest.csv"'


@pytest.mark.skipif(not REAL.is_dir(), reason=f"needs the real X-rays in {REAL}")
def test_real_darkcovid(tmp_path: Path) -> None:
    table = importer("darkcovid")(REAL).merge(pd.read_csv(REAL / "manifest.csv", dtype=str), on="path")
    assert len(table) == 1124
    assert (table["label_x"] == table["label_y"]).all()
    nih = table[table["label_x"] != "covid-19"]
    assert nih.groupby("patient_id_y")["patient_id_x"].nunique().max() == 1
    assert nih.groupby("patient_id_x")["patient_id_y"].nunique().max() == 1
    covid = table[table["label_x"] == "covid-19"]
    assert (covid.groupby("patient_id_y")["patient_id_x"].nunique() > 1).sum() <= 6


@given(person=st.integers(0, 99999), number=st.integers(0, 99999), pathogen=st.sampled_from(["virus", "bacteria"]))
def test_kermany_person(person: int, number: int, pathogen: str) -> None:
    stem = f"person{person}_{pathogen}_{number}"
    assert patient_of(stem) == f"kermany-person{person}"
    assert pathogen_of(stem) == pathogen


@given(patient=st.integers(0, 9999), rest=st.lists(st.integers(0, 9999), min_size=1, max_size=2), second=st.booleans())
def test_kermany_normal(patient: int, rest: list[int], second: bool) -> None:
    number = f"IM-{patient:04d}"
    stem = "-".join([f"NORMAL2-{number}" if second else number, *(f"{view:04d}" for view in rest)])
    assert patient_of(stem) == f"kermany-{number}"


CASES = st.from_regex(r"[a-z]{2,9}[0-9]{3}\.", fullmatch=True).map(lambda case: f"{case}x")
ENDINGS = st.sampled_from(
    ["-day3", "-day-12", "-PA", "-AP", "-12-hours", "_f1a", ".fig5", "-fig3-day0", "-L", "-a", "-b2"]
)


@given(case=CASES, endings=st.lists(ENDINGS, min_size=2, max_size=4))
def test_darkcovid_images_of_one_case_have_one_patient(case: str, endings: list[str]) -> None:
    assert {case_of(case + ending) for ending in endings} == {case_of(case)} == {case}


@given(patient=st.integers(1, 10**8 - 1), images=st.lists(st.integers(0, 999), min_size=1, max_size=5, unique=True))
@settings(max_examples=20, deadline=None)
def test_nih_names_give_the_patient(patient: int, images: list[int]) -> None:
    with TemporaryDirectory() as folder:
        for number in images:
            (Path(folder) / "Pneumonia").mkdir(exist_ok=True)
            (Path(folder) / f"Pneumonia/{patient:08d}_{number:03d}.png").touch()
        assert set(importer("darkcovid")(Path(folder))["patient_id"]) == {f"nih-{patient:08d}"}


@given(st.text(max_size=40))
def test_any_name_has_a_patient_or_none(stem: str) -> None:
    assert patient_of(stem) == "" or patient_of(stem).startswith("kermany-")
    assert pathogen_of(stem) in ("", "bacteria", "virus")
    assert case_of(stem) == "" if stem == "" else case_of(case_of(stem)) == case_of(stem) != ""
    assert isinstance(cohen_label(stem), str)
    assert nih_label(stem) in ("", "normal", "pneumonia", "other-finding")
