"""Importers of collections with findings, metadata and other layouts; tables in other encodings; images that moved."""

import gzip
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_importers import image, ready, text, tree

from covid_xray.data.importers import importer, locate, read_table
from covid_xray.data.importers.figure1 import patient_of
from covid_xray.data.importers.findings import label_findings
from covid_xray.errors import UserError

FIGURE1 = (
    "patientid,offset,sex,age,finding,survival,temperature,pO2 saturation,view,modality,artifacts/distortion,notes"
)
ACTUALMED = FIGURE1.replace("modality,", "modality,imagename,")
CHEXPERT = (
    "Path,Sex,Age,Frontal/Lateral,AP/PA,No Finding,Enlarged Cardiomediastinum,Cardiomegaly,Lung Opacity,Lung Lesion,"
    "Edema,Consolidation,Pneumonia,Atelectasis,Pneumothorax,Pleural Effusion,Pleural Other,Fracture,Support Devices"
)


def findings(columns: str, *names: str, **values: str) -> str:
    """The columns of the findings: ``1.0`` for some names, other values by name, else empty."""
    start = columns.split(",").index("No Finding")
    row = [values.get(name, "1.0" if name in names else "") for name in columns.split(",")[start:]]
    return ",".join(row)


def test_figure1_in_the_encoding_it_is_published_in(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = tree(tmp_path / "figure1", "images/COVID-00001.jpg", "images/COVID-00003a.jpg", "images/COVID-00003b.png")
    rows = (
        FIGURE1,
        "COVID-00001,13,M,33,COVID-19,,,58,AP erect,X-ray,,T 39 °C – intubated",
        "COVID-00003a,8,M,28,COVID-19,,39.1,90,AP erect,X-ray,,",
        "COVID-00003b,8,M,28,Pneumonia,,39.1,90,PA,X-ray,,",
        "COVID-00005,,,,,,,,,X-ray,,",
    )
    (root / "metadata.csv").write_bytes("\r\n".join(rows).encode("cp1252"))
    prepared, found = ready("figure1", root)
    assert f"{root / 'metadata.csv'} is not UTF-8: it is read as cp1252" in capsys.readouterr().out
    assert {name: (row["label"], row["patient_id"]) for name, row in found.items()} == {
        "COVID-00001.jpg": ("covid-19", "fig1-COVID-00001"),
        "COVID-00003a.jpg": ("covid-19", "fig1-COVID-00003"),
        "COVID-00003b.png": ("pneumonia", "fig1-COVID-00003"),
    }
    assert found["COVID-00003b.png"][["view", "source"]].tolist() == ["PA", "figure1-covid-chestxray"]
    assert prepared.rejected["reason"].tolist() == ["its finding is not known"]


@given(st.integers(0, 99999), st.sampled_from(["", "a", "b"]))
def test_figure1_patients(number: int, letter: str) -> None:
    assert patient_of(f"COVID-{number:05d}{letter}") == f"COVID-{number:05d}"


def test_covidx_lists_give_figure1_and_actualmed_the_same_patients(tmp_path: Path) -> None:
    root = tree(tmp_path / "covidx", "train/COVID-00003b.jpg", "test/CR.1.2.png", "val/a-0.png")
    text(root / "train.txt", "COVID-00003b COVID-00003b.jpg positive fig1")
    text(root / "test.txt", "ANON56 CR.1.2.png negative actmed")
    text(root / "val.txt", "10000364 a-0.png positive midrc")
    _, rows = ready("covidx", root)
    assert rows["COVID-00003b.jpg"]["patient_id"] == "fig1-COVID-00003"
    assert rows["CR.1.2.png"]["patient_id"] == "actmed-ANON56"
    assert rows["a-0.png"][["split", "source"]].tolist() == ["val", "midrc"]  # as in CXR-4


def test_actualmed(tmp_path: Path) -> None:
    name = "CR.1.2.840.113564.1722810170.20200317090830828260.1003000225002"
    root = tree(tmp_path / "actualmed", f"images/{name}.png", "images/DX.2.png", "images/CR.3.png")
    text(
        root / "metadata.csv",
        ACTUALMED,
        f'ANON56,,,,No finding,,,,PA,X-ray,{name}.png,,"Negative (covid-19 viral infection is excluded), 20200317"',
        'ANON196,,,,COVID-19,,,,AP,X-ray,DX.2.png,,", date taken (YYYYMMDD): 20200318"',
        'ANON196,,,,,,,,PA,X-ray,CR.3.png,,"Inconclusive, date taken (YYYYMMDD): 20200313"',
    )
    prepared, rows = ready("actualmed", root)
    assert {name: (row["label"], row["patient_id"]) for name, row in rows.items()} == {
        f"{name}.png": ("normal", "actmed-ANON56"),
        "DX.2.png": ("covid-19", "actmed-ANON196"),
    }
    assert prepared.rejected["row"].tolist() == ["4"]


def test_ricord(tmp_path: Path) -> None:
    place = "MIDRC-RICORD-1C/MIDRC-RICORD-1C-419639-000082/08-02-2002-XR CHEST AP-04614/2.000000-AP-59618"
    made = "png/MIDRC-RICORD-1C-419639-003251-46647-0.png"
    root = tree(tmp_path / "ricord", f"{place}/1-1.dcm", made, "png/stray.png")
    tree(root, "MIDRC-RICORD-1A/MIDRC-RICORD-1A-419639-000001/ct/1-001.dcm")
    prepared, rows = ready("ricord", root)
    assert rows["1-1.dcm"][["label", "patient_id", "view"]].tolist() == ["covid-19", "ricord-419639-000082", "AP"]
    assert rows[Path(made).name]["patient_id"] == "ricord-419639-003251"
    assert sorted(prepared.rejected["reason"]) == ["it is a CT, not an X-ray", "its path names no patient of RICORD"]


def test_bimcv(tmp_path: Path) -> None:
    place, name = "covid19_posi/sub-S03044/ses-E06790", "sub-S03044_ses-E06790_run-1_bp-chest_vp-pa_dx"
    negative = "covid19_neg/sub-S10001/ses-E1/mod-rx/sub-S10001_ses-E1_run-1_bp-chest_vp-lateral_cr.png"
    root = tree(tmp_path / "bimcv", f"{place}/mod-rx/{name}.png", f"{place}/mod-ct/slice.png", negative)
    prepared, rows = ready("bimcv", root)
    assert rows[f"{name}.png"][["label", "patient_id", "view"]].tolist() == ["covid-19", "bimcv-S03044", "PA"]
    assert rows[Path(negative).name][["label", "view"]].tolist() == ["no-covid-19", "L"]
    assert prepared.rejected["reason"].tolist() == ["it is a CT, not an X-ray"]
    _, rows = ready("bimcv", root / "covid19_posi")
    assert {row["label"] for row in rows.values()} == {"covid-19"}


@pytest.mark.parametrize("place", ["", "Lung Segmentation Data/", "Lung Segmentation Data/Lung Segmentation Data/"])
def test_covid_qu_ex(place: str, tmp_path: Path) -> None:
    names, splits = {"COVID-19": "covid-19", "Non-COVID": "pneumonia", "Normal": "normal"}, ("Train", "Val", "Test")
    images = [f"{place}{split}/{kind}/images/{split}_{kind}.png" for split in splits for kind in names]
    root = tree(tmp_path / "qu", *images)
    tree(root, f"{place}Train/Normal/lung masks/Train_Normal.png")
    if place:
        tree(root, "Infection Segmentation Data/Test/Normal/images/again.png")
    prepared, rows = ready("covid_qu_ex", root)
    assert {name: (row["label"], row["split"]) for name, row in rows.items()} == {
        f"{split}_{kind}.png": (label, split.lower()) for split in splits for kind, label in names.items()
    }
    assert prepared.rejected.empty
    assert not any("mask" in row["path"] for row in rows.values())


@pytest.fixture
def chexpert(tmp_path: Path) -> Path:
    """Rows with each kind of finding."""
    top = "CheXpert-v1.0-small"
    rows = {
        "train/patient00001/study1/view1_frontal": ("Frontal,AP", findings(CHEXPERT, "Pneumonia", "Edema")),
        "train/patient00002/study1/view1_frontal": ("Frontal,PA", findings(CHEXPERT, "No Finding")),
        "train/patient00002/study1/view2_lateral": ("Lateral,", findings(CHEXPERT, "No Finding")),
        "train/patient00003/study1/view1_frontal": ("Frontal,AP", findings(CHEXPERT, "Edema", Pneumonia="-1.0")),
        "train/patient00004/study2/view1_frontal": ("Frontal,AP", findings(CHEXPERT, "Edema", Pneumonia="0.0")),
    }
    lines = [f"{top}/{path}.jpg,Female,68,{view},{values}" for path, (view, values) in rows.items()]
    valid = f"{top}/valid/patient64541/study1/view1_frontal.jpg,Male,73,Frontal,AP,{findings(CHEXPERT, 'No Finding')}"
    root = tree(tmp_path / top, *(f"{path}.jpg" for path in rows), "valid/patient64541/study1/view1_frontal.jpg")
    text(root / "train.csv", CHEXPERT, *lines)
    text(root / "valid.csv", CHEXPERT, valid)
    return root


def by_patient(rows: pd.DataFrame) -> dict[str, set[str]]:
    return {str(patient): set(part["label"]) for patient, part in rows.groupby("patient_id")}


def test_chexpert(chexpert: Path) -> None:
    for source in (chexpert, chexpert.parent):
        prepared, _ = ready("chexpert", source)
        assert by_patient(prepared.accepted) == {
            "chexpert-patient00001": {"pneumonia"},
            "chexpert-patient00002": {"normal"},
            "chexpert-patient64541": {"normal"},
        }
        assert sorted(prepared.rejected["reason"]) == [
            "its findings are not in the mapping",
            "its findings are uncertain (pneumonia)",
        ]
    accepted = prepared.accepted.set_index("row" if "row" in prepared.accepted else "path")
    assert sorted(accepted["view"]) == ["AP", "AP", "L", "PA"]
    assert set(accepted["split"]) == {"train", "val"}


def test_chexpert_with_other_classes_and_rules(chexpert: Path) -> None:
    one = {"Pneumonia": "pneumonia", "other": "no-pneumonia"}
    prepared, _ = ready("chexpert", chexpert, findings=one, uncertain="positive")
    assert by_patient(prepared.accepted)["chexpert-patient00003"] == {"pneumonia"}
    prepared, _ = ready("chexpert", chexpert, findings=one, uncertain="negative")
    assert by_patient(prepared.accepted)["chexpert-patient00003"] == {"no-pneumonia"}
    prepared, _ = ready("chexpert", chexpert, findings={"pneumonia": "pneumonia", "edema": "oedema"})
    assert by_patient(prepared.accepted) == {"chexpert-patient00004": {"oedema"}}
    assert "its findings are of several classes (oedema, pneumonia)" in set(prepared.rejected["reason"])
    with pytest.raises(UserError, match="no image has 'Covid'; the findings are edema, no finding, pneumonia"):
        ready("chexpert", chexpert, findings={"Covid": "covid-19"})
    with pytest.raises(UserError, match="uncertain must be one of reject, positive, negative"):
        ready("chexpert", chexpert, uncertain="perhaps")


def test_findings_are_refused_where_a_collection_has_none(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="dataset=folder has one label per image"):
        ready("folder", tree(tmp_path / "in", "a/1.png"), findings={"a": "b"})


NAMES = st.lists(st.sampled_from(["a", "b", "c"]), unique=True)


@given(present=NAMES, doubtful=NAMES, rule=st.sampled_from(["positive", "negative"]))
def test_one_finding_divides_all_images(present: list[str], doubtful: list[str], rule: str) -> None:
    table = pd.DataFrame({"findings": ["|".join(present), "A"], "uncertain": ["|".join(doubtful), ""]})
    labels = label_findings(table, {"A": "yes", "other": "no"}, rule)["label"].tolist()
    assert labels == ["yes" if "a" in present or (rule == "positive" and "a" in doubtful) else "no", "yes"]


@pytest.mark.parametrize("ending", [".csv", ".csv.gz"])
def test_mimic_cxr(ending: str, tmp_path: Path) -> None:
    columns = "subject_id,study_id," + CHEXPERT.split("AP/PA,")[1]
    images = ["files/p10/p10000032/s50414267/a-1.jpg", "files/p10/p10000032/s50414267/a-2.jpg"]
    root = tree(tmp_path / "mimic", *images, "files/p11/p11000011/s2/b-1.jpg", "files/p11/p11000011/s3/c-1.jpg")
    tables = {
        "chexpert": [
            columns,
            f"10000032,50414267,{findings(columns, 'No Finding')}",
            f"11000011,2,{findings(columns, 'Pneumonia')}",
        ],
        "metadata": [
            "dicom_id,subject_id,study_id,PerformedProcedureStepDescription,ViewPosition,Rows,Columns",
            "a-1,10000032,50414267,CHEST (PA AND LAT),PA,3056,2544",
            "a-2,10000032,50414267,,LATERAL,3056,2544",
            "b-1,11000011,2,,AP,2,2",
            "c-1,11000011,3,,AP,2,2",
        ],
        "split": [
            "dicom_id,study_id,subject_id,split",
            "a-1,50414267,10000032,train",
            "a-2,50414267,10000032,train",
            "b-1,2,11000011,validate",
        ],
    }
    for name, lines in tables.items():
        file = root / f"mimic-cxr-2.0.0-{name}{ending}"
        content = ("\n".join(lines) + "\n").encode()
        file.write_bytes(gzip.compress(content) if ending.endswith("gz") else content)
    prepared, rows = ready("mimic_cxr", root)
    assert {name: (row["label"], row["patient_id"], row["view"], row["split"]) for name, row in rows.items()} == {
        "a-1.jpg": ("normal", "mimic-10000032", "PA", "train"),
        "a-2.jpg": ("normal", "mimic-10000032", "L", "train"),
        "b-1.jpg": ("pneumonia", "mimic-11000011", "AP", "val"),
    }
    assert prepared.rejected["reason"].tolist() == ["its study has no findings"]
    damaged = file.read_bytes()
    for content in (b"\0" * 50, damaged[: len(damaged) // 2], damaged[:40] + bytes(20) + damaged[60:]):
        file.write_bytes(content)
        if ending.endswith("gz") or content[:1] == b"\0":
            with pytest.raises(UserError, match=r"cannot be read as CSV|has no column"):
                ready("mimic_cxr", root)


def test_vindr_cxr(tmp_path: Path) -> None:
    root = tmp_path / "vindr"
    image(root / "train/aa.dcm")
    (root / "train/aa.dcm").rename(root / "train/aa.dicom")
    tree(root, "png/bb.png", "train/cc.png", "test/dd.png")
    header = "image_id,rad_id,Edema,Pneumonia,Other diseases,No finding"
    marks = {"aa": ("0,1,0,0", "0,1,0,0", "0,0,0,1"), "bb": ("0,0,0,1",) * 3, "cc": ("0,1,0,0", "0,0,0,1", "0,0,0,1")}
    lines = [f"{name},R{reader},{row}" for name, rows in marks.items() for reader, row in enumerate(rows)]
    text(root / "annotations/image_labels_train.csv", header, *lines)
    text(root / "annotations/image_labels_test.csv", "image_id,Edema,Pneumonia,Other disease,No finding", "dd,0,1,0,0")
    prepared, rows = ready("vindr_cxr", root)
    assert {name: (row["label"], row["split"]) for name, row in rows.items()} == {
        "bb.png": ("normal", "train"),
        "dd.png": ("pneumonia", "test"),
    }
    reasons = prepared.rejected["reason"].tolist()
    assert reasons == ["its findings are uncertain (no finding)", "its findings are uncertain (pneumonia)"]
    _, rows = ready("vindr_cxr", root, uncertain="negative")
    assert {name: row["label"] for name, row in rows.items()} == {
        **{"aa.dicom": "pneumonia", "bb.png": "normal", "cc.png": "normal", "dd.png": "pneumonia"}
    }


def test_padchest(tmp_path: Path) -> None:
    root = tree(tmp_path / "padchest", "0/a.png", "1/b.png", "1/c.png", "1/d.png", "54/e.png")
    header = (
        ",ImageID,ImageDir,StudyDate_DICOM,StudyID,PatientID,PatientSex_DICOM,Projection,Pediatric,MethodLabel,Labels"
    )
    lines = [
        """0,a.png,0,20140915,s1,83986048869429233163798823568146098,F,PA,No,Physician,"['pneumonia', 'unchanged']" """,
        """1,b.png,1,20140915,s2,313572750430997347502932654319389875966,M,AP_horizontal,No,RNN_model,['normal']""",
        """2,c.png,1,20140915,s3,1,M,EXCLUDE,No,RNN_model,['normal']""",
        """3,d.png,1,20140915,s4,2,M,L,No,Physician,""",
        """4,e.png,54,20140915,s5,3,M,L,No,Physician,['cardiomegaly']""",
    ]
    text(root / "PADCHEST_chest_x_ray_images_labels_160K_01.02.19.csv", header, *(line.strip() for line in lines))
    prepared, rows = ready("padchest", root)
    assert {name: (row["label"], row["view"], row["method"]) for name, row in rows.items()} == {
        "a.png": ("pneumonia", "PA", "Physician"),
        "b.png": ("normal", "AP_horizontal", "RNN_model"),
    }
    assert rows["a.png"]["patient_id"] == "padchest-83986048869429233163798823568146098"
    assert prepared.rejected.set_index("row")["reason"].to_dict() == {
        "4": "its projection is EXCLUDE",
        "5": "its labels are missing",
        "6": "its findings are not in the mapping",
    }


NEW = ["actualmed", "bimcv", "chexpert", "covid_qu_ex", "figure1", "mimic_cxr", "padchest", "ricord", "vindr_cxr"]


@pytest.mark.parametrize("dataset", NEW)
def test_wrong_folder(dataset: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"{tmp_path}.*give the folder"):
        importer(dataset)(tmp_path)


@pytest.mark.parametrize("separator", [";", "\t", "|"])
def test_other_separators(separator: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "table.csv"
    text(file, *(separator.join(row) for row in (["Name", "Notes"], ["a", "x, y"], ["b", ""])))
    table = read_table(file, ("name", "notes"))
    assert table[["name", "notes", "row"]].to_numpy().tolist() == [["a", "x, y", "2"], ["b", "", "3"]]
    assert f"{file} is separated by {separator!r}" in capsys.readouterr().out


def test_a_usual_table_prints_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "table.csv").write_text("name;x,notes\nä,b;c\n", encoding="utf-8-sig")
    assert read_table(tmp_path / "table.csv", ("notes",))["notes"].tolist() == ["b;c"]
    assert capsys.readouterr().out == ""
    (tmp_path / "broken.csv").write_bytes(b"name\n\x81\n")  # neither UTF-8 nor cp1252
    with pytest.raises(UserError, match=r"broken\.csv cannot be read as CSV"):
        read_table(tmp_path / "broken.csv", ("name",))


def test_images_that_moved(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = tree(tmp_path / "in", "a/1.png", "deep/er/2.png", "x/3.png", "y/3.png", "z/4.jpg", "x/5.png")
    asked = ["in/a/1.png", "images/2.png", "images/3.png", "images/4.png", "p/5.png", "q/5.png", "none.png"]
    assert locate(asked, root) == [
        "a/1.png",
        "deep/er/2.png",
        "images/3.png",
        "z/4.jpg",
        "p/5.png",
        "q/5.png",
        "none.png",
    ]
    assert "3 images are in other folders than the table says: in/a/1.png is a/1.png" in capsys.readouterr().out
    assert locate(["x/3.png", "images/3.png"], root) == ["x/3.png", "y/3.png"], "the other 3.png is listed already"
    capsys.readouterr()
    assert locate(["a/1.png"], root) == ["a/1.png"]
    assert capsys.readouterr().out == ""
