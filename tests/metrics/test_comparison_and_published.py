import numpy as np
import pytest
from scipy import stats

from covid_xray.errors import UserError
from covid_xray.metrics.comparison import compare, mcnemar
from covid_xray.metrics.intervals import exact_interval, wilson_interval
from covid_xray.metrics.predictions import Predictions
from covid_xray.metrics.scores import score
from covid_xray.reporting.published import PUBLISHED, PUBLISHED_HEADER, published_rows


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
    0: (92.4, (95, 91, 80), (91.3, 93.8, 88.9), (100, 100, 10)),
    1: (93.3, (95, 94, 91), (90.5, 91.3, 98.9), (100, 100, 100)),
    2: (94.3, (94, 94, 95), (91.3, 93.1, 99.0), (100, 100, 100)),
}


@pytest.mark.parametrize("row", COVID_NET)
def test_counts_give_all_published_metrics_of_covid_net(row: int) -> None:
    result = PUBLISHED[row]
    accuracy, sensitivities, predictive, sizes = COVID_NET[row]
    hits = [round(share * size / 100) for share, size in zip(sensitivities, sizes, strict=True)]
    assert (sum(hits), sum(sizes)) == (result.correct, result.total)
    assert (hits[2], sizes[2]) == (result.covid_hits, result.covid_cases)
    assert round(100 * result.correct / result.total, 1) == accuracy
    n_predicted = [round(100 * hit / value) for hit, value in zip(hits, predictive, strict=True)]
    assert sum(n_predicted) == result.total
    # The published values have one decimal, truncated or rounded.
    for hit, count, value in zip(hits, n_predicted, predictive, strict=True):
        assert abs(100 * hit / count - value) < 0.1


def test_counts_of_the_other_rows() -> None:
    article, validation, dark = PUBLISHED[3:]
    assert (article.total - article.correct, round(100 * article.correct / article.total, 1)) == (38, 97.4)
    assert round(1 - validation.correct / validation.total, 4) == 0.0493
    assert round(100 * dark.correct / dark.total, 2) == 87.02
    wilson = wilson_interval(dark.correct, dark.total)
    assert [round(100 * limit, 1) for limit in (wilson.low, wilson.high)] == [84.9, 88.9]
    assert article.covid_sensitivity() == exact_interval(10, 10)
    assert round(stats.fisher_exact([[10, 0], [8, 2]]).pvalue, 2) == 0.47


def test_each_row_has_intervals_and_a_comment() -> None:
    rows = published_rows()
    assert all(len(row) == len(PUBLISHED_HEADER) for row in rows)
    assert rows[0][2] == "80.0 % (44.4 to 97.5 %), 8 of 10"
    assert rows[3][2] == "100.0 % (69.2 to 100.0 %), 10 of 10"
    assert all("ompara" in row[4] for row in rows)
    assert rows[-1][2] == "not published"
