"""Published results to compare with, each with the interval that follows from its counts.

Counts were reconstructed from the published percentages: with the class sizes below, one margin of the confusion matrix
reproduces every published sensitivity, predictive value and accuracy of a row (a test checks it).
"""

from dataclasses import dataclass

from covid_xray.metrics.intervals import Interval, exact_interval


@dataclass(frozen=True)
class PublishedResult:
    """One published result.

    Attributes:
        name: Model and test set.
        source: Publication.
        correct: Images classified correctly.
        total: Test images.
        covid_hits: COVID-19 images classified as COVID-19; None if not published.
        covid_cases: COVID-19 images in the test set; None if not published.
        note: What else was published.
        comparable: Which results it can be compared with.
    """

    name: str
    source: str
    correct: int
    total: int
    covid_hits: int | None
    covid_cases: int | None
    note: str
    comparable: str

    def accuracy(self) -> Interval:
        """Accuracy with its exact interval; images count as independent, because patients were not published."""
        return exact_interval(self.correct, self.total)

    def covid_sensitivity(self) -> Interval:
        """COVID-19 sensitivity with its exact interval; nan if the counts were not published."""
        if self.covid_hits is None or self.covid_cases is None:
            return Interval(float("nan"), float("nan"), float("nan"), "", "counts not published")
        return exact_interval(self.covid_hits, self.covid_cases)


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
        "weighted F1 0.974; 10 of 10 against COVID-Net's 8 of 10 is no significant difference (Fisher's exact p = "
        "0.47)",
        "Not comparable with any result: about 80 % of these test images were also training images, the test images "
        "were augmented, and the source reveals the label.",
    ),
    PublishedResult(
        "The article, its validation images",
        _ARTICLE,
        2852,
        3000,
        None,
        None,
        "error rate 4.93 % in the last epoch; the only estimate of the notebook without leakage",
        "Comparable only with a validation accuracy on a random split by image of the same data; with a split by "
        "patient, expect a lower accuracy.",
    ),
    PublishedResult(
        "DarkCovidNet, 5 folds split by image",
        "Ozturk et al. 2020, Computers in Biology and Medicine 121",
        979,
        1125,
        None,
        None,
        "three classes; 125 COVID-19, 500 normal and 500 pneumonia images",
        "Comparable with all five folds, split by image, of the chest-xrays data (1,124 of its 1,125 images); not "
        "comparable with a single fold or with a split by patient: its training and test images share patients.",
    ),
)

PUBLISHED_HEADER = ("Result", "Accuracy (95 %)", "COVID-19 sensitivity (95 %)", "Note", "Can it be compared", "Source")


def published_rows() -> tuple[tuple[str, ...], ...]:
    """Rows for a table with the columns of `PUBLISHED_HEADER`."""
    return tuple(
        (
            result.name,
            f"{result.accuracy().text(percent=True)}, {result.correct} of {result.total}",
            "not published"
            if result.covid_hits is None
            else f"{result.covid_sensitivity().text(percent=True)}, {result.covid_hits} of {result.covid_cases}",
            result.note,
            result.comparable,
            result.source,
        )
        for result in PUBLISHED
    )
