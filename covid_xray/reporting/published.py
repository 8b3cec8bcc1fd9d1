"""Published results to stand beside ours, each with the interval that its own counts allow.

Counts were rebuilt from the published percentages: with the class sizes below, one confusion matrix margin gives every
published sensitivity, predictive value and accuracy of a row at once (a test checks it).
"""

from dataclasses import dataclass

from covid_xray.metrics.intervals import LEVEL, Interval, exact_interval


@dataclass(frozen=True)
class PublishedResult:
    """One published row.

    Attributes:
        name: Model and test set.
        source: Where it was published.
        correct: Images classified correctly.
        total: Test images.
        covid_hits: COVID-19 images found; None where not published.
        covid_cases: COVID-19 images in the test set; None where not published.
        note: What else was published.
        comparable: Whether it may stand beside a result on the named data, in words.
    """

    name: str
    source: str
    correct: int
    total: int
    covid_hits: int | None
    covid_cases: int | None
    note: str
    comparable: str

    def accuracy(self, level: float = LEVEL) -> Interval:
        """Accuracy with its exact interval; images taken as independent, since patients were not published."""
        return exact_interval(self.correct, self.total, level)

    def covid_sensitivity(self, level: float = LEVEL) -> Interval:
        """COVID-19 sensitivity with its exact interval; nan where the counts were not published."""
        if self.covid_hits is None or self.covid_cases is None:
            return Interval(float("nan"), float("nan"), float("nan"), "", "counts not published")
        return exact_interval(self.covid_hits, self.covid_cases, level)


_COVIDX = (
    "Not comparable unless tested on the same COVIDx test images: other images, and the COVID-19 images come from "
    "another source than the normal ones."
)
_COVID_NET = "Wang, Lin and Wong 2020, COVID-Net"
_ARTICLE = 'The article, "Diagnosing COVID-19 using Chest X-Rays", April 2020'

PUBLISHED = (
    PublishedResult(
        "COVID-Net, first version, COVIDx", _COVID_NET, 194, 210, 8, 10, "10 COVID-19 images from 5 patients", _COVIDX
    ),
    PublishedResult("COVID-Net CXR-3, COVIDx", _COVID_NET, 280, 300, 91, 100, "100 images of each class", _COVIDX),
    PublishedResult("COVID-Net CXR-4A, COVIDx", _COVID_NET, 283, 300, 95, 100, "100 images of each class", _COVIDX),
    PublishedResult(
        "The article, COVIDx test images",
        _ARTICLE,
        1450,
        1488,
        10,
        10,
        "weighted F1 0.974; 10 of 10 against COVID-Net's 8 of 10 is no difference (Fisher's exact p = 0.47)",
        "Not comparable with anything: about 80 % of these test images were trained on, test images were augmented, "
        "and the source gives the label away.",
    ),
    PublishedResult(
        "The article, its validation images",
        _ARTICLE,
        2852,
        3000,
        None,
        None,
        "error rate 4.93 % in the last epoch; the notebook's honest estimate",
        "Comparable with a validation accuracy on a random split by image of the same data only; split by patient, "
        "expect less.",
    ),
    PublishedResult(
        "DarkCovidNet, 5 folds split by image",
        "Ozturk et al. 2020, Computers in Biology and Medicine 121",
        979,
        1125,
        None,
        None,
        "three classes; 125 COVID-19, 500 normal and 500 pneumonia images",
        "Comparable with all five folds, split by image, of the chest-xrays data (1,124 of its 1,125 images), not with "
        "a single fold and not with a split by patient: images of one patient lie on both sides there.",
    ),
)


def published_rows(level: float = LEVEL) -> tuple[tuple[str, ...], ...]:
    """Rows for a table: name, accuracy, COVID-19 sensitivity, note, whether it can be compared, source."""
    return tuple(
        (
            result.name,
            result.accuracy(level).text(percent=True) + f", {result.correct} of {result.total}",
            _sensitivity_text(result, level),
            result.note,
            result.comparable,
            result.source,
        )
        for result in PUBLISHED
    )


PUBLISHED_HEADER = ("Result", "Accuracy (95 %)", "COVID-19 sensitivity (95 %)", "Note", "Can it be compared", "Source")


def _sensitivity_text(result: PublishedResult, level: float) -> str:
    if result.covid_hits is None:
        return "not published"
    return f"{result.covid_sensitivity(level).text(percent=True)}, {result.covid_hits} of {result.covid_cases}"
