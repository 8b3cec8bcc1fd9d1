"""Manifests and class folders: read correctly or refused with file, row and reason; checks of records."""

import csv
import io
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from hydra.utils import instantiate
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from covid_xray.data.folder import list_folder, read_folder
from covid_xray.data.manifest import read_manifest
from covid_xray.data.phantom import draw_phantoms
from covid_xray.data.records import COLUMNS, check_records
from covid_xray.errors import UserError
from covid_xray.runs.prediction_file import list_images

PNG = b"\x89PNG"  # reading a manifest does not open the images


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """Write a manifest and the images that it lists."""

    def writer(text: str | bytes, name: str = "manifest.csv", images: tuple[str, ...] = ("a.png", "b.png")) -> Path:
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(text if isinstance(text, bytes) else text.encode())
        for image in images:
            (file.parent / image).parent.mkdir(parents=True, exist_ok=True)
            (file.parent / image).write_bytes(PNG)
        return file

    return writer


def test_smallest_manifest(write: Callable[..., Path], tmp_path: Path) -> None:
    table = read_manifest(write("path,label\na.png,normal\nb.png,covid-19\n"))
    assert table["path"].tolist() == ["a.png", "b.png"]
    assert table["file"].tolist() == [str(tmp_path / "a.png"), str(tmp_path / "b.png")]
    assert table["patient_id"].tolist() == ["a.png", "b.png"]
    assert table["split"].tolist() == table["source"].tolist() == ["", ""]


@pytest.mark.parametrize(
    "text",
    [
        b"\xef\xbb\xbfpath,label\na.png,normal\nb.png,covid-19\n",
        b"path,label\r\na.png,normal\r\nb.png,covid-19\r\n",
        b"path,label\ra.png,normal\rb.png,covid-19\r",
        b"path,label\na.png,normal\nb.png,covid-19",
        b"path,label\n\na.png,normal\n\nb.png,covid-19\n\n",
        b" path , label \na.png, normal \nb.png,covid-19\n",
        b'"path","label"\n"a.png","normal"\n"b.png","covid-19"\n',
        b"label,path\nnormal,a.png\ncovid-19,b.png\n",
        b"path,label,split,patient_id\na.png,normal,NaN,nan\nb.png,covid-19,,N/A\n",
    ],
    ids=["BOM", "CRLF", "CR", "no last newline", "blank lines", "spaces", "quotes", "other order", "NaN as missing"],
)
def test_equivalent_files_give_the_same_table(text: bytes, write: Callable[..., Path]) -> None:
    table = read_manifest(write(text))
    assert table["path"].tolist() == ["a.png", "b.png"]
    assert table["label"].tolist() == ["normal", "covid-19"]
    assert table["patient_id"].tolist() == ["a.png", "b.png"]
    assert table["split"].tolist() == ["", ""]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "is empty"),
        ("\n \n\n", "no column 'path'|is empty"),
        ("path,label\n", "lists no images"),
        ("path\na.png\n", "no column 'label'"),
        ("file,label\na.png,normal\n", "no column 'path'"),
        ("path;label\na.png;normal\n", "separated by commas"),
        ("path,label,path\na.png,normal,b.png\n", "'path' twice"),
        ("path,label, label\na.png,normal,normal\n", "'label' twice"),
        ("path,label\na.png,normal\nb.png,\n", "row 3 has no label"),
        ("path,label\na.png,normal\nb.png\n", "row 3 has no label"),
        ("path,label\na.png,NaN\n", "row 2 has no label"),
        ("path,label\nnan,normal\n", "row 2 has no path"),
        ("path,label\n ,normal\n", "row 2 has no path"),
        ("path,label\na.png,normal,extra\nb.png,normal,extra\n", "more fields"),
        ("path,label\na.png,normal\nb.png,normal,extra\n", "manifest.csv"),
        ("path,label\na.png,normal\na.png,normal\n", "row 3 lists an image a second time"),
        ("path,label\na.png,normal\n./a.png,covid-19\n", "row 3 lists an image a second time"),
        ("path,label\na.png,normal\n../{folder}/a.png,normal\n", "row 3 lists an image a second time"),
        ("path,label\na.png,normal\n{root}/a.png,normal\n", "row 3 lists an image a second time"),
        ("path,label\nc.png,normal\nd.png,normal\n", "row 2 names an image that does not exist: 'c.png' .and 1 more"),
        ("path,label\n.,normal\n", "does not exist"),
        ("path,label,split\na.png,normal,holdout\n", "row 2 has a split other than"),
        ('path,label\n"a.png,normal\n', "manifest.csv"),
        (b"path,label\na\0.png,normal\n", "manifest.csv"),
        ("path,label\na.png,normal\n".encode("utf-16"), "UTF-8"),
        (b"path,label\n\xff\xfe.png,normal\n", "UTF-8"),
        (os.urandom(2000), "manifest.csv"),
        ("path,label\n" + "x" * 5000 + ".png,normal\n", "does not exist"),
    ],
)
def test_refused_with_reason(text: str | bytes, words: str, write: Callable[..., Path], tmp_path: Path) -> None:
    if isinstance(text, str):
        text = text.replace("{root}", str(tmp_path)).replace("{folder}", tmp_path.name)
    file = write(text)
    with pytest.raises(UserError, match=words) as error:
        read_manifest(file)
    assert str(file) in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("manifest", [[], {}, 3, None, [3], "", "missing.csv", ".", "x" * 5000, "a\0b"])
def test_invalid_manifest_argument(manifest: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError):
        read_manifest(manifest)  # type: ignore[arg-type]


def test_absolute_and_relative_paths_and_links(write: Callable[..., Path], tmp_path: Path) -> None:
    outside = tmp_path / "outside.png"
    outside.write_bytes(PNG)
    file = write(f"path,label\na.png,x\n{outside},x\n../outside2.png,x\nlink.png,x\n", "in/manifest.csv", ("a.png",))
    (tmp_path / "outside2.png").write_bytes(PNG)
    (tmp_path / "in/link.png").symlink_to(outside)
    table = read_manifest(file)
    assert all(Path(name).is_file() for name in table["file"])
    assert table["path"].tolist()[1] == str(outside)
    (tmp_path / "in/loop.png").symlink_to(tmp_path / "in/loop.png")
    with pytest.raises(UserError, match="does not exist"):
        read_manifest(write("path,label\nloop.png,x\n", "in/loops.csv", ()))


@pytest.mark.parametrize("name", ["with space.png", "ünï 肺.png", 'quo"te.png', "com,ma.png", "'.png"])
def test_unusual_names(name: str, write: Callable[..., Path], tmp_path: Path) -> None:
    text = io.StringIO()
    csv.writer(text).writerows([["path", "label"], [name, "normal"], ["a.png", "normal"]])
    (tmp_path / name).write_bytes(PNG)
    assert read_manifest(write(text.getvalue()))["path"].tolist() == [name, "a.png"]


def test_control_characters_are_refused(write: Callable[..., Path], tmp_path: Path) -> None:
    (tmp_path / "new\nline.png").write_bytes(PNG)
    with pytest.raises(UserError, match=r"the path 'new\\nline\.png' has a control character"):
        read_manifest(write('path,label\n"new\nline.png",normal\na.png,normal\n'))


def test_several_manifests(write: Callable[..., Path]) -> None:
    first = write("path,label,patient_id,age\na.png,COVID,1,70\nb.png,NORMAL,2,60\n", "one/manifest.csv")
    second = write("path,label,view\na.png,Covid-19,PA\nb.png,Pneumonia,AP\n", "two/manifest.csv")
    table = read_manifest([first, second], {"COVID": "covid-19", "Covid-19": "covid-19", "NORMAL": "normal"})
    assert table["path"].tolist() == ["one/a.png", "one/b.png", "two/a.png", "two/b.png"]
    assert table["label"].tolist() == ["covid-19", "normal", "covid-19", "Pneumonia"]
    assert table["age"].tolist() == ["70", "60", "", ""]
    assert table["view"].tolist() == ["", "", "PA", "AP"]


def test_several_manifests_in_folders_of_the_same_name(write: Callable[..., Path]) -> None:
    files = [write("path,label\na.png,x\nb.png,y\n", f"{place}/data/manifest.csv") for place in ("p", "q")]
    files.append(write("path,label\nc.png,x\n", "p/data/more.csv", ("c.png",)))
    paths = read_manifest(files)["path"].tolist()
    assert paths == ["data/a.png", "data/b.png", "data-2/a.png", "data-2/b.png", "data/c.png"]


def test_image_in_two_manifests(write: Callable[..., Path]) -> None:
    files = [write("path,label\na.png,x\nb.png,y\n", name) for name in ("one.csv", "two.csv")]
    with pytest.raises(UserError, match="two manifests"):
        read_manifest(files)


def test_dropped_classes_are_counted(write: Callable[..., Path], capsys: pytest.CaptureFixture[str]) -> None:
    file = write("path,label\na.png,x\nb.png,y\nc.png,y\n", images=("a.png", "b.png", "c.png"))
    assert read_manifest(file, {"y": None})["label"].tolist() == ["x"]
    assert "2 images of class y are left out" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("class_map", "words"),
    [
        ({"z": "x"}, "no image has the label 'z'; the labels are x, y"),
        ({"x": ["y"]}, "class_map.x"),
        ({"x": True}, "class_map.x"),
        ({"x": " "}, "class_map.x"),
    ],
)
def test_class_map_mistakes(class_map: dict[str, str | None], words: str, write: Callable[..., Path]) -> None:
    file = write("path,label\na.png,x\nb.png,y\n")
    with pytest.raises(UserError, match=words):
        read_manifest(file, class_map)
    with pytest.raises(UserError, match="no images"):
        read_manifest(file, {"x": None, "y": None})


def test_unknown_label(write: Callable[..., Path]) -> None:
    file = write("path,label\na.png,normal\nb.png,nromal\n")
    with pytest.raises(UserError, match=r"b\.png has the unknown label 'nromal'; data.classes are normal, covid-19"):
        read_manifest(file, classes=["normal", "covid-19"])
    assert len(read_manifest(file, {"nromal": "normal"}, ["normal"])) == 2


@pytest.mark.parametrize(
    "text",
    [
        "path,label\n\n\na.png,x\n\nc.png,y\n",
        "\n\npath,label\na.png,x\n,\nc.png,y\n",
        "path,label\r\ra.png,x\r\r\rc.png,y\r",
    ],
    ids=["after the header", "before the header", "CR"],
)
def test_blank_lines_count_as_rows(text: str, write: Callable[..., Path]) -> None:
    file = write(text)
    with pytest.raises(UserError, match=r"row 6 names an image that does not exist: 'c\.png'"):
        read_manifest(file)


def test_columns_with_reserved_names_are_renamed(write: Callable[..., Path], tmp_path: Path) -> None:
    table = read_manifest(write("path,file,row,label\na.png,scan7,1,x\nb.png,scan8,2,y\n"))
    assert table["file_given"].tolist() == ["scan7", "scan8"]
    assert table["row_given"].tolist() == ["1", "2"]
    assert table["file"].tolist() == [str(tmp_path / "a.png"), str(tmp_path / "b.png")]
    assert read_manifest(write("path,file,file_given,label\na.png,p,q,x\n"))["file_given_given"].tolist() == ["p"]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Normal", "normal"),
        ("covid-19", "COVID 19"),
        ("covid_19", "covid19"),
        ("0", "0.0"),
        ("1", "01"),
        ("Müll", "Mu\u0308ll"),
    ],
)
def test_similar_class_names_are_refused(one: str, other: str, write: Callable[..., Path], tmp_path: Path) -> None:
    file = write(f"path,label\na.png,{one}\nb.png,{other}\n")
    with pytest.raises(UserError, match="would be two classes") as error:
        read_manifest(file)
    assert ("data.class_map=" in str(error.value)) == one.isascii()  # Hydra reads no other letters in a key
    assert repr(one) in str(error.value)
    assert repr(other) in str(error.value)
    assert set(read_manifest(file, {one: other})["label"]) == {other}
    for label in (one, other):
        (tmp_path / "tree" / label).mkdir(parents=True)
        (tmp_path / "tree" / label / "1.png").write_bytes(PNG)
    with pytest.raises(UserError, match="would be two classes"):
        read_folder(tmp_path / "tree")
    assert set(read_folder(tmp_path / "tree", None, {one: other})["label"]) == {other}


def test_classes_that_differ_in_a_symbol_are_accepted(write: Callable[..., Path]) -> None:
    assert len(set(read_manifest(write("path,label\na.png,covid+\nb.png,covid-\n"))["label"])) == 2


def test_a_million_rows(write: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """The test does not create the files: a million files would measure the file system."""
    monkeypatch.setattr("covid_xray.data.manifest._is_file", lambda path: True)
    rows = "".join(f"images/{number}.png,c{number % 3},p{number % 1000},s,\n" for number in range(1_000_000))
    file = write("path,label,patient_id,source,split\n" + rows)
    start = time.process_time()  # independent of other processes
    table = read_manifest(file)
    assert time.process_time() - start < 30
    assert len(table) == 1_000_000
    assert table.memory_usage(deep=True).sum() < 600e6


def test_folder(tmp_path: Path) -> None:
    for name in (
        "train/a/p1_1.png",
        "train/b/p2_1.PNG",
        "test/a/p3_1.jpg",
        "valid/b/deep/p4_1.png",
        "train/a/notes.txt",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(PNG)
    table = read_folder(tmp_path, r"(p\d+)_").sort_values("path")
    assert table["path"].tolist() == [
        "test/a/p3_1.jpg",
        "train/a/p1_1.png",
        "train/b/p2_1.PNG",
        "valid/b/deep/p4_1.png",
    ]
    assert table["split"].tolist() == ["test", "train", "train", "val"]
    assert table["patient_id"].tolist() == ["p3", "p1", "p2", "p4"]
    assert table["label"].tolist() == ["a", "a", "b", "b"]


def test_folders_without_end_are_refused(tmp_path: Path) -> None:
    deep = tmp_path / "deep"
    (deep / "/".join(["a"] * 102)).mkdir(parents=True)
    for read in (read_folder, lambda path: list(list_images(str(path)))):
        with pytest.raises(UserError, match="has more than 100 levels of folders"):
            read(deep)


def test_folder_reports_what_is_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = ("Train/a/1.png", "Train/b/2.png", "TEST/a/3.png", "valid/b/4.png", "stray.png", "Train/stray.png")
    junk = ("other/a/5.png", "Train/a/._1.png", "Train/.ipynb_checkpoints/6.png", "Train/a/.DS_Store", "Train/a/scan")
    for name in (*names, *junk, "notes.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(PNG)
    (tmp_path / "Train/a/cycle").symlink_to(tmp_path)
    (tmp_path / "Train/a/dicom.dcm").mkdir()
    (tmp_path / "valid/a").symlink_to(tmp_path / "Train/a")  # a class may be a link
    (tmp_path / "TEST/b").mkdir()
    table, left_out = list_folder(tmp_path)
    assert sorted(table["path"]) == ["TEST/a/3.png", "Train/a/1.png", "Train/b/2.png", "valid/a/1.png", "valid/b/4.png"]
    assert set(table["label"]) == {"a", "b"}
    assert {path: reason for path, reason in left_out.items() if not path.startswith("valid/a/")} == {
        **dict.fromkeys(("stray.png", "Train/stray.png"), "it is not in a class folder"),
        "other/a/5.png": "it is not in train, val or test",
        **dict.fromkeys(("Train/a/._1.png", "Train/.ipynb_checkpoints/"), "it is hidden"),
        "Train/a/scan": "it does not have the extension of an image",
        "Train/a/cycle/": "it is a link to a folder",
        "TEST/b/": "it contains no images",
    }
    read_folder(tmp_path)
    printed = capsys.readouterr().out.splitlines()
    assert f"data.root={tmp_path}: left out because it is not in train, val or test: 'other/a/5.png'" in printed


@pytest.mark.parametrize(
    ("regex", "words"), [("(", "no regular"), ("p", "one group"), ("(a)(b)", "one group"), (3, "no")]
)
def test_folder_mistakes(regex: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    with pytest.raises(UserError, match=words):
        read_folder(tmp_path, regex)
    with pytest.raises(UserError, match="no images"):
        read_folder(tmp_path)
    with pytest.raises(UserError, match="no folder"):
        read_folder(tmp_path / "missing")


def test_table_can_be_read_again_from_its_attributes(write: Callable[..., Path], tmp_path: Path) -> None:
    files = [str(write("path,label\na.png,x\nb.png,y\n", f"{place}/m.csv")) for place in ("p", "q")]
    as_configured = OmegaConf.create({"files": files, "class_map": {"y": "z"}, "classes": ["x", "z"]})
    (tmp_path / "tree/a").mkdir(parents=True)
    (tmp_path / "tree/a/p1.png").write_bytes(PNG)
    for table in (
        read_folder(tmp_path / "tree", "(p.)", {"a": "b"}),
        read_manifest(files[0]),
        read_manifest(as_configured.files, as_configured.class_map, as_configured.classes),
        draw_phantoms(tmp_path / "phantoms", 3, 2, 32),
    ):
        reader = json.loads(json.dumps(table.attrs["reader"]))
        assert reader == table.attrs["reader"]
        pd.testing.assert_frame_equal(instantiate(reader), table)
        pd.testing.assert_frame_equal(check_records(table), table, check_dtype=False)


def test_records_are_completed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    given = pd.DataFrame({"path": [Path("a.png"), "/b.png"], "label": pd.Categorical(["x", "y"]), "age": 3}, [5, 5])
    records = check_records(given)
    assert given.columns.tolist() == ["path", "label", "age"]
    assert records.index.tolist() == [0, 1]
    assert records["file"].tolist() == [str(tmp_path / "a.png"), "/b.png"]
    assert records["patient_id"].tolist() == records["path"].tolist() == ["a.png", "/b.png"]
    assert records["source"].tolist() == records["split"].tolist() == ["", ""]
    columns: dict[str, Any] = {"patient_id": [None, "7"], "split": ["VALID", None], "file": ["c.png", None]}
    given = given.assign(**columns, source="s")
    records = check_records(given)
    assert records[["patient_id", "split"]].to_numpy().tolist() == [["a.png", "val"], ["7", ""]]
    assert records["file"].tolist() == [str(tmp_path / "c.png"), "/b.png"]
    assert all(type(value) is str for value in records[list(COLUMNS)].to_numpy().ravel())


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ({}, "at least one row"),
        ({"path": ["a"]}, "no column 'label'; it has path"),
        ({"file": ["a"], "label": ["x"]}, "no column 'path'"),
        ({"path": ["a", " "], "label": ["x", "x"]}, "row 1 has no path"),
        ({"path": ["a", "b", "c"], "label": ["x", None, float("nan")]}, r"row 1 has no label: 'b' \(and 1 more\)"),
        ({"path": ["a", "a"], "label": ["x", "x"]}, "row 1 lists an image a second time: 'a'"),
        ({"path": ["a"], "label": ["x"], "split": ["holdout"]}, "row 0 has a split other than"),
    ],
)
def test_invalid_records(columns: dict[str, list[object]], words: str) -> None:
    with pytest.raises(UserError, match=words):
        check_records(pd.DataFrame(columns))
    with pytest.raises(UserError, match="DataFrame"):
        check_records(columns)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="'path' twice"):
        check_records(pd.DataFrame([["a", "b", "x"]], columns=["path", "path", "label"]))


def test_checking_many_records_is_fast() -> None:
    records = pd.DataFrame({"path": [f"images/{number}.png" for number in range(100_000)], "label": "x"})
    start = time.process_time()  # independent of other processes
    assert len(check_records(records)) == 100_000
    assert time.process_time() - start < 1


NAMES = st.text(
    st.characters(exclude_characters="/", exclude_categories=("C", "Zl", "Zp")), min_size=1, max_size=20
).filter(
    lambda name: (
        name.strip() and name not in (".", "..") and name.lower() not in ("nan", "na", "n/a", "#n/a", "<na>", "null")
    )
)
LABELS = st.sampled_from(["normal", "covid-19", "Viral Pneumonia", "肺炎", 'a "b", c'])
RELAXED = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@RELAXED
@given(
    rows=st.dictionaries(
        NAMES, st.tuples(LABELS, st.sampled_from(["", "train", "VAL", "test"])), min_size=1, max_size=8
    )
)
def test_written_rows_are_read_back(
    rows: dict[str, tuple[str, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("covid_xray.data.manifest._is_file", lambda path: True)
    written = pd.DataFrame([(name, *row) for name, row in rows.items()], columns=["path", "label", "split"])
    file = tmp_path / "manifest.csv"
    written.to_csv(file, index=False)
    table = read_manifest(file)
    assert table["path"].tolist() == list(rows)
    assert table["label"].tolist() == [label for label, _ in rows.values()]
    assert table["split"].tolist() == [split.lower() for _, split in rows.values()]


@RELAXED
@given(text=st.one_of(st.binary(max_size=200), st.text(alphabet='pathlbe,"\n\r;. \0x', max_size=80).map(str.encode)))
def test_invalid_bytes_raise_a_user_error(text: bytes, tmp_path: Path) -> None:
    file = tmp_path / "manifest.csv"
    file.write_bytes(b"path,label\n" + text)
    with pytest.raises(UserError):
        read_manifest(file)
    file.write_bytes(text)
    with pytest.raises(UserError):
        read_manifest(file)


def test_numeric_labels_are_mapped_as_text(write: Callable[..., Path]) -> None:
    file = write("path,label\na.png,0\nb.png,1\n")
    table = read_manifest(file, {0: "normal", 1: 2}, ["normal", 2])  # type: ignore[dict-item, list-item]
    assert table["label"].tolist() == ["normal", "2"]
    assert table.attrs["reader"]["class_map"] == {"0": "normal", "1": "2"}


def test_columns_in_any_case(write: Callable[..., Path]) -> None:
    table = read_manifest(write("Path,LABEL,Patient_ID,Split\na.png,x,7,Training\nb.png,y,8,TESTING\n"))
    assert table["patient_id"].tolist() == ["7", "8"]
    assert table["split"].tolist() == ["train", "test"]


@pytest.mark.parametrize(("one", "two"), [("7", "7.0"), ("007", "7"), ("P7", "p7"), ("P 7", "P7"), ("p007", "p7")])
def test_patients_written_in_two_ways_are_refused(one: str, two: str, write: Callable[..., Path]) -> None:
    first = write(f"path,label,patient_id\na.png,x,{one}\nb.png,y,{two}\n")
    with pytest.raises(UserError, match=r"differ only in case, blanks, leading zeros or \.0; write the id") as error:
        read_manifest(first)
    assert repr(one) in str(error.value)
    assert repr(two) in str(error.value)


def test_patients_without_id_may_be_similar(write: Callable[..., Path]) -> None:
    table = read_manifest(write("path,label\n1.png,x\n01.png,y\n", images=("1.png", "01.png")))
    assert table["patient_id"].tolist() == ["1.png", "01.png"]


@pytest.mark.parametrize("other", ["7", "7.0"])
def test_an_id_in_two_manifests(other: str, write: Callable[..., Path], capsys: pytest.CaptureFixture[str]) -> None:
    files = [
        write(f"path,label,patient_id\na.png,x,{number}\nb.png,y,{place}9\n", f"{place}/m.csv")
        for place, number in (("p", "7"), ("q", other))
    ]
    assert read_manifest(files)["patient_id"].tolist() == ["p/7", "p9", f"q/{other}", "q9"]
    printed = capsys.readouterr().out
    assert "1 patient ids, such as '7', are in the manifests of several folders (p, q)" in printed
    assert "data.same_patients=true" in printed
    if other == "7":
        assert read_manifest(files, same_patients=True)["patient_id"].tolist() == ["7", "p9", "7", "q9"]
    else:
        with pytest.raises(UserError, match=r"'7' and '7\.0' differ only"):
            read_manifest(files, same_patients=True)


def test_patient_in_the_path(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("x/patient01/study1/view1.png", "x/patient01/study2/view1.png", "y/12_a.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(PNG)
    with_view = read_folder(tmp_path, r"(patient\d+)")["patient_id"].tolist()
    assert with_view == ["patient01", "patient01", "y/12_a.png"]
    assert "data.patient_regex finds no patient in 1 of 3 paths" in capsys.readouterr().out
    # The name of the file comes first: "^" is its beginning.
    assert read_folder(tmp_path, r"^(\d+)_")["patient_id"].tolist()[-1] == "12"
    with pytest.raises(UserError, match=r"finds no patient in any path of data\.root"):
        read_folder(tmp_path, r"(person\d+)")


def test_folder_layouts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("Training/a/images/1.png", "Training/a/masks/1.png", "Testing/b/1.png", "VAL/a/1.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(PNG)
    table = read_folder(tmp_path).sort_values("path")
    assert table["split"].tolist() == ["test", "train", "val"]
    assert table["label"].tolist() == ["b", "a", "a"]
    assert "left out because it contains masks: 'Training/a/masks/'" in capsys.readouterr().out
