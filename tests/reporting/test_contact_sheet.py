"""The page that shows a data set."""

import re
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
from test_html import Reader

import covid_xray as cx
from covid_xray.data.images.read import write_png
from covid_xray.data.prepare import rejected_files
from covid_xray.reporting.contact_sheet import duplicate_groups, write_contact_sheet

EVIL = "<script>alert(1)"


def draw(file: Path, seed: int) -> None:
    """A smooth image that resembles no image of another seed."""
    file.parent.mkdir(parents=True, exist_ok=True)
    coarse = np.random.default_rng(seed).integers(0, 256, (12, 9), dtype=np.uint8)
    write_png(file, np.asarray(cv2.resize(coarse, (72, 96), interpolation=cv2.INTER_CUBIC), dtype=np.uint8))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Nine images in class folders, of which two are copies and one is damaged; and two files that are left out."""
    root = tmp_path / "xrays"
    for number in range(4):
        draw(root / f"ill/{number}.png", number)
        draw(root / f"{EVIL}/{number}.png", 10 + number)
    same = root / "ill/copy.png"
    same.write_bytes((root / "ill/0.png").read_bytes())
    other = cv2.imread(str(root / "ill/1.png"), cv2.IMREAD_GRAYSCALE)
    assert other is not None
    cv2.imwrite(str(root / f"{EVIL}/similar.jpg"), other, [cv2.IMWRITE_JPEG_QUALITY, 60])
    (root / f"{EVIL}/3.png").write_bytes(b"no image")
    (root / "ill/notes.txt").write_text("notes")
    draw(root / "outside.png", 99)
    return root


def groups(page: str) -> dict[str, tuple[str, int, int]]:
    """Classes, images and files without image of every group of images, by title."""
    found = {}
    for part in re.split('<div class="group(?=[" ])', page)[1:]:
        match = re.match(r'([^"]*)">\s*<h3>(.*?)</h3>', part)
        assert match
        found[match[2]] = (match[1].strip(), part.count("<img"), part.count('class="missing"'))
    return found


def test_page_of_class_folders(folder: Path, tmp_path: Path) -> None:
    records = cx.read_folder(folder)
    copy = records["path"] == "ill/copy.png"
    records["split"] = np.where(copy, "test", "train")
    records["source"] = np.where(copy, EVIL, "north")
    report = write_contact_sheet(records, tmp_path / "new/show.html", shown=4)
    assert [sorted(group) for group in duplicate_groups(report)] == [
        [f"{EVIL}/similar.jpg", "ill/1.png"],
        ["ill/0.png", "ill/copy.png"],
    ]
    page = (tmp_path / "new/show.html").read_text()
    reader, evil = Reader(page), EVIL.replace("<", "&lt;").replace(">", "&gt;")
    assert "script" not in {tag for tag, _ in reader.tags}
    assert groups(page) == {
        "ill: 5 images of 5 patients": ("", 4, 0),
        f"{evil}: 5 images of 5 patients": ("", 3, 1),
        "north: 9 images of 9 patients": ("", 3, 1),
        f"{evil}: 1 image of 1 patient": ("", 1, 0),
        "train: 9 images of 9 patients": ("", 4, 0),
        "test: 1 image of 1 patient": ("", 1, 0),
        f"2 images, labels {evil} and ill, 2 patients": ("warns", 2, 0),
        "2 images with the same pixels, in train and test, 2 patients": ("warns", 2, 0),
        "it is no image of a known format: 1": ("", 0, 1),
        "it does not have the extension of an image: 1": ("", 0, 1),
        "it is not in a class folder: 1": ("", 1, 0),
    }
    assert "The same image in test (ill/copy.png) and train (ill/0.png)." in reader.texts
    for name, value in (("images", "10"), ("leaks", "1"), ("groups of duplicates", "2"), ("rejected files", "3")):
        assert re.search(rf"<dt>{name}</dt><dd>{value}</dd>", page), name


def test_rejected_files_of_manifests(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "manifest.csv").write_text("path,label\nxrays/ill/0.png,a\nxrays/ill/1.png,b\n")
    records = cx.read_manifest(tmp_path / "manifest.csv")
    assert rejected_files(records).empty
    (tmp_path / "rejected.csv").write_text("path,label,row,reason\nxrays/ill/2.png,a,4,its view is lateral\n")
    write_contact_sheet(records, tmp_path / "show.html")
    page = (tmp_path / "show.html").read_text()
    assert groups(page) == {
        "a: 1 image of 1 patient": ("", 1, 0),
        "b: 1 image of 1 patient": ("", 1, 0),
        "its view is lateral: 1": ("", 1, 0),
    }
    for text in ("The images are not divided into splits yet.", "The data names no sources.", "None. Near duplicates"):
        assert text in page, text
    for other in ("other,columns\n1,2\n", ""):
        (tmp_path / "rejected.csv").write_text(other)
        assert rejected_files(records).empty
    assert rejected_files(pd.DataFrame({"path": ["a"]})).empty


def test_mistakes(folder: Path, tmp_path: Path) -> None:
    records = cx.read_folder(folder)
    for output in (tmp_path, tmp_path / "show.png"):
        with pytest.raises(cx.UserError, match=r"output must be a file whose name ends in \.html, not"):
            write_contact_sheet(records, output)
    for name in ("shown", "duplicates"):
        with pytest.raises(cx.UserError, match=f"{name} must be a whole number of at least 1, not 0"):
            write_contact_sheet(records, tmp_path / "show.html", **{name: 0})  # type: ignore[arg-type]
    with pytest.raises(cx.UserError, match="cannot be written"):
        write_contact_sheet(records, folder / "ill/0.png/show.html")
