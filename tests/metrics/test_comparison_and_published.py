import numpy as np
import pytest
from scipy import stats

from covid_xray.errors import UserError
from covid_xray.metrics.comparison import compare, mcnemar
from covid_xray.metrics.intervals import exact_interval, wilson_interval
from covid_xray.metrics.predictions import Predictions
from covid_xray.metrics.scores import score
from covid_xray.reporting.published import PUBLISHED, PUBLISHED_HEADER, SOURCE_ONLY, fitting, published_rows


def pair(seed: int = 0, n: int = 150) -> tuple[Predictions, Predictions]:
    random = np.random.default_rng(seed)
    labels = np.r_[0, 1, 2, random.integers(0, 3, n - 3)]
    shared, patients = random.normal(size=(n, 3)), [f"p{i // 2}" for i in range(n)]
    both = []
    for skill in (1.0, 2.0):
        powers = np.exp(shared + 0.5 * random.normal(size=(n, 3)) + skill * np.eye(3)[labels])
        both.append(
            Predictions.build(labels, powers / powers.sum(axis=1, keepdims=True), ["a", "b", "c"], patients=patients)
        )
    return both[0], both[1]


def test_differences_are_paired_and_do_not_depend_on_the_order() -> None:
    a, b = pair()
    found = compare(a, b, resamples=400)
    shuffled = compare(a, b.select(np.random.default_rng(1).permutation(150)), resamples=400)
    texts = [{name: i.text(digits=9) for name, i in each.differences.items()} for each in (found, shuffled)]
    assert texts[0] == texts[1]
    one, other = score(a).values, score(b).values
    for name, interval in found.differences.items():
        assert interval.value == pytest.approx(other[name] - one[name], abs=1e-12)
        assert interval.low <= interval.high or name == "no_information_rate"
    assert found.differences["accuracy"].low > 0
    assert found.differences["nll"].high < 0
    same = compare(a, a, resamples=50)
    assert all(i.value == 0 for i in same.differences.values())
    assert all("equal in all resamples" in i.reason for i in same.differences.values())
    assert same.mcnemar.p == 1


def test_pairing_narrows_the_interval() -> None:
    a, b = pair(3)
    interval = compare(a, b, resamples=400).differences["accuracy"]
    accuracies = [(part.predicted == part.labels).mean() for part in (a, b)]
    unpaired = 2 * 1.96 * np.sqrt(sum(share * (1 - share) / 150 for share in accuracies))
    assert interval.high - interval.low < unpaired


def test_mcnemar_is_the_exact_binomial_test() -> None:
    a, b = pair(2)
    correct_a, correct_b = a.predicted == a.labels, b.predicted == b.labels
    found = mcnemar(a, b)
    assert (found.both, found.neither) == ((correct_a & correct_b).sum(), (~correct_a & ~correct_b).sum())
    assert found.only_a == (correct_a & ~correct_b).sum()
    assert found.only_b == (correct_b & ~correct_a).sum()
    assert found.p == pytest.approx(stats.binomtest(found.only_a, found.only_a + found.only_b, 0.5).pvalue)
    assert "independent" in found.note
    # 5 against 0 discordant images: p = 2 / 2^5.
    labels, right, wrong = np.zeros(5, int), np.tile([0.9, 0.1], (5, 1)), np.tile([0.1, 0.9], (5, 1))
    test = mcnemar(Predictions.build(labels, right, ["a", "b"]), Predictions.build(labels, wrong, ["a", "b"]))
    assert test.p == pytest.approx(0.0625)
    assert test.note == ""


def test_different_test_sets_raise_an_error_with_the_difference() -> None:
    a, b = pair(n=20)
    with pytest.raises(UserError, match=r"1 image \(image 19\) only in the first$"):
        compare(a, b.select(range(19)))
    renamed = Predictions.build(b.labels, b.probabilities, b.class_names, [f"x{i}" for i in range(20)], b.patients)
    with pytest.raises(UserError, match=r"20 images \(image 0, image 1, …\) only in the first; 20 images \(x0, x1"):
        compare(a, renamed)
    moved = Predictions.build((b.labels + 1) % 3, b.probabilities, b.class_names, b.images, b.patients)
    with pytest.raises(UserError, match=r"20 images .* with another label"):
        compare(a, moved, ("old", "new"))
    regrouped = Predictions.build(b.labels, b.probabilities, b.class_names, b.images, ["one"] * 20)
    with pytest.raises(UserError, match="with another patient"):
        compare(a, regrouped)
    other = Predictions.build(b.labels, b.probabilities, ["a", "b", "d"], b.images, b.patients)
    with pytest.raises(UserError, match="classes a, b, c against a, b, d"):
        compare(a, other)


# Published: accuracy, sensitivity and predictive value in percent, of normal, pneumonia and COVID-19.
COVID_NET = {
    "COVID-Net, first version": (92.4, (95, 91, 80), (91.3, 93.8, 88.9), (100, 100, 10)),
    "COVID-Net Small": (92.6, (97, 90, 87.1), (89.8, 94.7, 96.4), (100, 100, 31)),
    "COVID-Net Large": (94.4, (99, 89, 96.8), (91.7, 98.9, 90.9), (100, 100, 31)),
    "COVIDNet-CXR3-A": (93.3, (93, 93, 94), (92.1, 90.3, 97.9), (100, 100, 100)),
    "COVIDNet-CXR3-B": (93.3, (95, 94, 91), (90.5, 91.3, 98.9), (100, 100, 100)),
    "COVIDNet-CXR3-C": (92.3, (92, 90, 95), (90.2, 91.8, 95.0), (100, 100, 100)),
    "COVIDNet-CXR4-A": (94.3, (94, 94, 95), (91.3, 93.1, 99.0), (100, 100, 100)),
    "COVIDNet-CXR4-B": (93.7, (96, 92, 93), (88.9, 93.9, 98.9), (100, 100, 100)),
    "COVIDNet-CXR4-C": (93.3, (95, 89, 96), (90.5, 93.7, 96.0), (100, 100, 100)),
    "COVID-Net CXR-2": (96.3, (97.0, 95.5), (95.6, 97.0), (200, 200)),
    "COVID-Net CXR-3 (MEDUSA)": (98.3, (99.0, 97.5), (97.5, 99.0), (200, 200)),
}
BY_NAME = {result.name: result for result in PUBLISHED}


@pytest.mark.parametrize("name", COVID_NET)
def test_counts_give_all_published_metrics_of_covid_net(name: str) -> None:
    result = BY_NAME[name]
    accuracy, sensitivities, predictive, sizes = COVID_NET[name]
    hits = [round(share * size / 100) for share, size in zip(sensitivities, sizes, strict=True)]
    assert (sum(hits), sum(sizes)) == (result.correct, result.total)
    assert (hits[-1], sizes[-1]) == (result.covid_hits, result.covid_cases)
    assert abs(100 * result.correct / result.total - accuracy) <= 0.0501
    n_predicted = [round(100 * hit / value) for hit, value in zip(hits, predictive, strict=True)]
    assert sum(n_predicted) == result.total
    # The published values have one decimal, truncated or rounded.
    for hit, count, value in zip(hits, n_predicted, predictive, strict=True):
        assert abs(100 * hit / count - value) < 0.1


def test_counts_of_the_other_rows() -> None:
    article, validation, dark = PUBLISHED[-3:]
    assert (article.total - article.correct, round(100 * article.correct / article.total, 1)) == (38, 97.4)
    assert round(1 - validation.correct / validation.total, 4) == 0.0493
    assert round(100 * dark.correct / dark.total, 2) == 87.02
    wilson = wilson_interval(dark.correct, dark.total)
    assert [round(100 * limit, 1) for limit in (wilson.low, wilson.high)] == [84.9, 88.9]
    assert article.covid_sensitivity() == exact_interval(10, 10)
    assert round(stats.fisher_exact([[10, 0], [8, 2]]).pvalue, 2) == 0.47
    shares = {name: 100 * BY_NAME[name].correct / BY_NAME[name].total for name in BY_NAME}
    assert round(shares["COVID-Next ResNeXt-50"], 2) == 94.76
    assert shares["EVA-X-S"] == 97.5
    assert shares["Medical-MAE ViT-S and ViT-B"] == 95.25


def test_each_row_has_intervals_and_a_comment() -> None:
    rows = {row[0]: row for row in published_rows()}
    assert all(len(row) == len(PUBLISHED_HEADER) and all(row) for row in rows.values())
    assert rows["COVID-Net, first version, COVIDx 1"][2] == "80.0 % (44.4 to 97.5 %), 8 of 10"
    assert rows["The article, COVIDx test images"][2] == "100.0 % (69.2 to 100.0 %), 10 of 10"
    assert all("ompara" in row[6] for row in rows.values())
    assert rows["DarkCovidNet, 5 folds split by image"][2] == "not published"
    assert rows["COVID-Net CXR-3 (MEDUSA), COVIDx 8B"][3] == (
        "100.0 % (99.1 to 100.0 %), 400 of 400, COVID-19 200 of 200; from the source"
    )
    assert {result.test_list for result in PUBLISHED} == {*SOURCE_ONLY, ""}


@pytest.mark.parametrize(
    ("classes", "number"),
    [
        (("covid-19", "normal", "pneumonia"), 14),
        (("Normal", "COVID19", "pneumonia"), 14),
        (("negative", "positive"), 3),
        (("no-finding", "pneumonia"), 0),
        (("normal", "pneumonia"), 0),
        (("covid-19", "normal", "pneumonia", "lung-opacity"), 0),
    ],
)
def test_only_results_with_the_same_classes_are_shown(classes: tuple[str, ...], number: int) -> None:
    assert len(fitting(classes)) == number
