"""experiments/covidx: numbers recomputed from tiny lists, and from the public lists where they are."""

import gzip
import importlib.util
import re
from collections import Counter, defaultdict
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

from covid_xray.metrics.intervals import clustered_exact_interval
from covid_xray.reporting.published import PUBLISHED, SOURCE_ONLY

STUDY = Path(__file__).parents[1] / "experiments/covidx"
LISTS = Path(__file__).parents[2] / "shared/data/covidx-lists"
RESULTS = pd.read_csv(STUDY / "results.csv", dtype={"list": str}).set_index("list")

# As in the public lists: no source in the first; RSNA's lines without one in 4; two words in 7A; one source per class
# in the test list of 8B; a line twice in 4, and a patient in both lists of 6.
TINY = {
    "": (
        "p1 a.jpg COVID-19|p1 b.jpg COVID-19|n1 n1.png normal|n2 n2.png normal|m1 m1.png pneumonia",
        "p2 c.jpg COVID-19|n3 n3.png normal|n4 n4.jpg normal|m2 m2.png pneumonia",
    ),
    "4": (
        "1 a.png COVID-19 cohen|1 b.png COVID-19 cohen|2 c.png pneumonia cohen|x1 x1.png normal|x2 x2.png normal"
        "|x3 x3.png pneumonia|1 a.png COVID-19 cohen",
        "3 d.png COVID-19 cohen|4 e.png pneumonia cohen|x4 x4.png normal|x5 x5.png pneumonia",
    ),
    "6": (
        "A1 a.png negative actmed|9 b.png positive cohen|x1 x1.png negative rsna|x2 x2.png negative rsna",
        "A1 c.png positive actmed|8 d.png positive cohen|x3 x3.png negative rsna",
    ),
    "7A": (
        "COVID 1 COVID(1).png COVID-19 sirm|COVID 2 COVID(2).png COVID-19 sirm|x1 x1.png normal|x2 x2.png pneumonia"
        "|x3 x3.png normal",
        "COVID 3 COVID(3).png COVID-19 sirm|x4 x4.png normal|x5 x5.png pneumonia|7 e.png COVID-19 new",
    ),
    "8B": (
        "r1 r1.png positive ricord|r1 r2.png positive ricord|x1 x1.png negative rsna|c1 c1.png negative cohen"
        "|c2 c2.png positive cohen",
        "r3 r3.png positive ricord|r3 r4.png positive ricord|r5 r5.png positive ricord|y1 y1.png negative rsna"
        "|y2 y2.png negative rsna|y3 y3.png negative rsna",
    ),
}


@pytest.fixture(scope="module")
def study() -> ModuleType:
    specification = importlib.util.spec_from_file_location("covidx_count", STUDY / "count.py")
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def tiny(study: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    folder = tmp_path_factory.mktemp("lists")
    for version, (train, test) in TINY.items():
        (folder / f"train_COVIDx{version}.txt").write_text(train.replace("|", "\n") + "\n")
        (folder / f"test_COVIDx{version}.txt.gz").write_bytes(gzip.compress(test.replace("|", "\n").encode()))
    found: pd.DataFrame = study.count(folder).set_index("list")
    return found


def parse(lines: list[str]) -> list[tuple[str, str, str, str]]:
    """Patient, file, class and source of each line, each file once."""
    pattern = re.compile(r"^(.+?) (\S+) (COVID-19|normal|pneumonia|positive|negative)(?: (\S+))?$")
    rows = [match.groups("unknown") for line in lines if (match := pattern.match(line))]
    assert len(rows) == len(lines)
    return list({file: (patient, file, label.lower(), source) for patient, file, label, source in rows}.values())


@pytest.mark.parametrize("version", TINY)
def test_every_number_from_tiny_lists(version: str, tiny: pd.DataFrame) -> None:
    found = tiny.loc[version or "1"]
    train, test = (parse(lines.split("|")) for lines in TINY[version])
    for split, rows in (("train", train), ("test", test)):
        for label, count in Counter(label for _, _, label, _ in rows).items():
            assert found[f"{split} {label}"] == count
    covid = "positive" if any(label == "positive" for _, _, label, _ in test) else "covid-19"
    assert found["test patients of covid-19"] == len({patient for patient, _, label, _ in test if label == covid})
    assert found["patients in train and test"] == (1 if version == "6" else 0)
    assert found["repeated lines"] == (1 if version == "4" else 0)
    assert found["test images"] == len(test)
    check_factor(found, "source", train, test, covid, lambda row: row[3])
    check_factor(found, "file type", train, test, covid, lambda row: Path(row[1]).suffix)


def check_factor(found: Any, factor: str, train: Any, test: Any, covid: str, value: Any) -> None:
    """Compare the numbers of one factor with a plain count."""
    if len({value(row) for row in train + test}) == 1:
        assert np.isnan(found.get(f"{factor}: correct", np.nan))
        return
    labels = sorted({row[2] for row in train + test})
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for row in train:
        counts[value(row)][row[2]] += 1
    everything = sum(counts.values(), Counter())
    shares = []
    for row in test:
        known = counts.get(value(row), everything)
        shares.append([(known[label] + 1) / (sum(known.values()) + len(labels)) for label in labels])
    truth = np.array([labels.index(row[2]) for row in test])
    table = np.array(shares)
    hits, patients = table.argmax(axis=1) == truth, np.array([row[0] + row[3] for row in test])
    interval = clustered_exact_interval(hits, patients)
    of_covid = truth == labels.index(covid)
    sensitivity = clustered_exact_interval(hits[of_covid], patients[of_covid])
    aurocs = [roc_auc_score(truth == k, table[:, k]) for k in sorted(set(truth.tolist()))]
    expected = {
        "correct": hits.sum(),
        "accuracy": hits.mean(),
        "accuracy low": interval.low,
        "accuracy high": interval.high,
        "balanced accuracy": np.mean([hits[truth == k].mean() for k in set(truth.tolist())]),
        "macro AUROC": np.mean(aurocs),
        "AUROC covid-19": roc_auc_score(of_covid, table[:, labels.index(covid)]),
        "sensitivity covid-19": sensitivity.value,
        "sensitivity low": sensitivity.low,
        "sensitivity high": sensitivity.high,
    }
    for name, number in expected.items():
        assert found[f"{factor}: {name}"] == pytest.approx(number, abs=5.1e-5), name


def test_figure_shows_each_result_of_a_list(study: ModuleType, tiny: pd.DataFrame) -> None:
    assert study.draw(tiny.reset_index()).startswith(b"\x89PNG")


def test_published_table_has_the_counts_of_the_study() -> None:
    for name, found in SOURCE_ONLY.items():
        row = RESULTS.loc[name]
        assert (row[f"{found.factor}: correct"], row["test images"]) == (found.correct, found.total)
        covid = row["test positive"] if np.isnan(row["test covid-19"]) else row["test covid-19"]
        assert (round(row[f"{found.factor}: sensitivity covid-19"] * covid), covid) == (
            found.covid_hits,
            found.covid_cases,
        )
    for result in PUBLISHED:
        if result.test_list:
            assert RESULTS.loc[result.test_list]["test images"] == result.total


def test_readme_has_the_numbers_of_the_table() -> None:
    text = (STUDY / "README.md").read_text()
    rows = {
        cells[0]: cells for line in text.splitlines() if len(cells := split_row(line)) > 5 and cells[0] in RESULTS.index
    }
    assert set(rows) == set(RESULTS.index)
    for name, cells in rows.items():
        row = RESULTS.loc[name]
        train = [row[f"train {label}"] for label in ("covid-19", "normal", "pneumonia", "positive", "negative")]
        assert cells[1] == " / ".join(f"{value:,.0f}" for value in train if not np.isnan(value))
        for place, factor in ((5, "source"), (6, "file type")):
            correct = row[f"{factor}: correct"]
            assert cells[place] == ("no sources" if np.isnan(correct) else f"{correct:.0f} of {row['test images']:.0f}")
        assert cells[3] == f"{row['patients in train and test']:.0f}"
        assert cells[4] == f"{row['repeated lines']:,.0f}"


def split_row(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("|").split("|")]


@pytest.mark.skipif(not LISTS.is_dir(), reason=f"needs the public COVIDx lists in {LISTS}")
def test_committed_numbers_are_those_of_the_public_lists(study: ModuleType, tmp_path: Path) -> None:
    study.count(LISTS).to_csv(tmp_path / "results.csv", index=False)
    assert (tmp_path / "results.csv").read_text() == (STUDY / "results.csv").read_text()
