"""A classifier that sees only the source; classes that cannot be separated from their source; tables without images."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse.csgraph import connected_components
from sklearn.metrics import balanced_accuracy_score, roc_auc_score

from covid_xray.data.audit.report import audit_records, source_only_text
from covid_xray.data.audit.source_only import factor_score, predict_from_factor, source_only_scores
from covid_xray.data.audit.sources import confounded_classes, confounding_text, held_out_problem, separation_problem
from covid_xray.data.manifest import read_manifest
from covid_xray.data.records import check_records
from covid_xray.data.split import assign_splits
from covid_xray.errors import UserError

Row = tuple[str, str, str]  # split, label, source


def table(rows: list[Row], per_patient: int = 1) -> pd.DataFrame:
    names = [f"{number:04d}.png" for number in range(len(rows))]
    found = pd.DataFrame(rows, columns=["split", "label", "source"])
    return check_records(found.assign(path=names, patient_id=[f"p{n // per_patient}" for n in range(len(rows))]))


def test_posterior_is_laplaces_rule_and_a_new_source_gets_the_shares_of_all() -> None:
    learned = [("train", "a", "x")] * 3 + [("train", "b", "x")] + [("val", "b", "y")] * 2
    rows = table([*learned, ("test", "a", "x"), ("test", "b", "y"), ("test", "b", "new")])
    learning, tested = rows["split"] != "test", rows["split"] == "test"
    found = predict_from_factor(rows["label"][learning], rows["source"][learning], rows[tested], rows["source"][tested])
    expected = [[4 / 6, 2 / 6], [1 / 4, 3 / 4], [4 / 8, 4 / 8]]
    assert found.class_names == ("a", "b")
    assert found.probabilities == pytest.approx(np.array(expected))
    score = factor_score("source", rows[learning], rows["source"][learning], rows[tested], rows["source"][tested])
    assert (score["learned_from"], score["test_images"], score["new_values"], score["correct"]) == (6, 3, 1, 2)


SPLITS, LABELS, PLACES = st.sampled_from(["train", "val", "test"]), st.sampled_from("ab"), st.sampled_from("xyz")


@settings(max_examples=60, deadline=None)
@given(rows=st.lists(st.tuples(SPLITS, LABELS, PLACES), max_size=50))
def test_score_is_that_of_a_plain_count(rows: list[Row]) -> None:
    rows += [("train", "a", "x"), ("train", "b", "y"), ("test", "a", "x"), ("test", "b", "z")]
    found = next(score for score in source_only_scores(table(rows)) if score["factor"] == "source")
    counts = Counter((source, label) for split, label, source in rows if split != "test")
    total = Counter(label for split, label, _ in rows if split != "test")
    truth, share = [], []
    for split, label, source in rows:
        if split == "test":
            known = counts if any(counts[source, name] for name in "ab") else {(source, k): n for k, n in total.items()}
            a, b = known.get((source, "a"), 0), known.get((source, "b"), 0)
            truth.append(label)
            share.append((b + 1) / (a + b + 2))
    predicted = ["b" if value > 0.5 else "a" for value in share]
    assert found["correct"] == sum(map(str.__eq__, predicted, truth))
    assert found["balanced_accuracy"] == pytest.approx(balanced_accuracy_score(truth, predicted))
    assert found["auroc"]["b"] == pytest.approx(roc_auc_score(np.array(truth) == "b", share))
    assert found["learned_from"] == sum(split != "test" for split, *_ in rows)


def test_source_that_is_the_label_scores_everything_and_a_mixed_one_nothing() -> None:
    confounded = [(split, label, label.upper()) for split in ("train", "test") for label in "ab" for _ in range(20)]
    report = audit_records(table(confounded), read=False)
    row = report.source_only[0]
    assert row["factor"] == "source"
    assert (row["correct"], row["macro_auroc"], row["accuracy"]["value"]) == (40, 1, 1)
    text = source_only_text(row)
    assert "accuracy of 100.0 % (91.2 to 100.0 %; 40 of 40 test images)" in text
    assert text in report.to_markdown()
    mixed = [(split, label, source) for split in ("train", "test") for label in "ab" for source in "XY"] * 10
    row = audit_records(table(mixed), read=False).source_only[0]
    assert (row["balanced_accuracy"], row["macro_auroc"], row["no_information_rate"]) == (0.5, 0.5, 0.5)


def test_audit_of_a_table_reads_no_image_and_claims_nothing_about_copies() -> None:
    rows = table([("train", "a", "x"), ("train", "b", "y"), ("test", "a", "x"), ("test", "b", "x")], per_patient=2)
    rows.loc[3, "patient_id"] = "p0"
    report = audit_records(rows, read=False)
    assert not report.images_read
    assert report.findings() == {"same patient in several splits": ["p0 (test: 0003.png; train: 0000.png, 0001.png)"]}
    assert report.leaks() == ["patient p0 in test (0003.png) and train (0000.png, 0001.png)"]
    assert "not read" in report.limits()
    assert {row["factor"] for row in report.associations} == {"source", "view", "file type"}
    sizes = rows.assign(width=["10", "10", "20", "20"], height=["10"] * 4)
    assert {"size", "aspect"} <= {row["factor"] for row in audit_records(sizes, read=False).associations}
    gap = sizes.assign(width=["10", "", "20", "20"])
    assert len(audit_records(gap, read=False).associations) == 3
    json.loads(report.to_json())


def test_no_test_images_no_score() -> None:
    assert source_only_scores(table([("train", "a", "x"), ("train", "b", "y")])) == []
    assert source_only_scores(table([("test", "a", "x"), ("test", "b", "y")])) == []


def test_confounded_class_is_named_with_the_images_that_would_help() -> None:
    labels, sources = ["covid", "normal", "pneumonia"] * 2, ["cohen", "nih", "nih"] * 2
    assert confounded_classes(labels, sources) == {"covid": ["cohen"]}
    assert confounding_text(labels, sources) == (
        "Every covid image comes from cohen, and no image of another class does: no method can separate this class "
        "from its source. Images that could: covid images from nih, or normal or pneumonia images from cohen."
    )
    assert confounding_text([*labels, "normal"], [*sources, "cohen"]) == ""
    assert confounding_text(labels, ["one"] * 6) == ""


@settings(max_examples=60, deadline=None)
@given(pairs=st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from("xyz")), min_size=1, max_size=12))
def test_held_out_source_leaves_all_its_classes_to_learn_from(pairs: list[tuple[str, str]]) -> None:
    labels, sources = zip(*pairs, strict=True)
    for source in set(sources):
        tested = {label for label, place in pairs if place == source}
        learned = {label for label, place in pairs if place != source}
        possible = len(tested) > 1 and tested <= learned
        assert (held_out_problem(labels, sources, source) == "") == possible


@given(pairs=st.lists(st.tuples(st.sampled_from("abcd"), st.sampled_from("wxyz")), min_size=1, max_size=12))
def test_label_and_source_are_separable_where_their_graph_is_connected(pairs: list[tuple[str, str]]) -> None:
    labels, sources = zip(*pairs, strict=True)
    nodes = sorted({*labels, *sources})
    links = np.zeros((len(nodes), len(nodes)))
    for label, source in pairs:
        links[nodes.index(label), nodes.index(source)] = 1
    connected = connected_components(links, directed=False)[0] == 1
    assert (separation_problem(labels, sources) == "") == (connected and len(set(sources)) > 1)


def test_the_sentence_names_what_is_missing() -> None:
    assert separation_problem("abc", "xyy") == (
        "no source has both a and b or c images, so the source gives the label away; add a images from y, or b or c "
        "images from x"
    )
    assert separation_problem("ab", "xx").startswith("all images have one source (x)")


def joined(patients: int = 12) -> pd.DataFrame:
    rows = [("", label, source) for label in "ab" for source in ("x", "y z", "w") for _ in range(2 * patients)]
    return table([*rows, *[("", "a", "only")] * 4], per_patient=2)


def test_split_by_source_tests_one_source_and_validates_by_patient() -> None:
    records = joined()
    found = assign_splits(records.assign(split="train"), by="source", test_source="y z")
    assert set(found["source"][found["split"] == "test"]) == {"y z"}
    assert (found["split"][found["source"] == "y z"] == "test").all()
    assert found.groupby("patient_id")["split"].nunique().max() == 1
    for split in ("train", "val"):
        assert set(found["label"][found["split"] == split]) == {"a", "b"}
    assert 0.1 < (found["split"] == "val").sum() / (found["split"] != "test").sum() < 0.3


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({}, "the sources are only, w, x, y z"),
        ({"test_source": "v"}, "no image comes from it; the sources are only, w, x, y z"),
        ({"test_source": "only"}, "all its images are a"),
        ({"test_source": "x", "folds": 3}, "split.folds is not used"),
        ({"test_source": "x", "by": "patient"}, "needs split=source"),
    ],
)
def test_sources_that_cannot_be_tested_are_refused(arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        assign_splits(joined(), **{"by": "source", **arguments})


def test_manifest_without_images(tmp_path: Path) -> None:
    file = tmp_path / "m.csv"
    file.write_text("path,label\na.png,x\nb.png,y\n")
    assert len(read_manifest(file, images=False)) == 2
    assert read_manifest(file, images=False).attrs["reader"]["images"] is False
    with pytest.raises(UserError, match="does not exist"):
        read_manifest(file)
    with pytest.raises(UserError, match=r"data\.images must be true or false"):
        read_manifest(file, images="no")  # type: ignore[arg-type]
