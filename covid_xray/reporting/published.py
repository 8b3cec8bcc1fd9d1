"""Published results to compare with, each with the interval that follows from its counts.

Counts were reconstructed from the published percentages: with the class sizes below, one margin of the confusion matrix
reproduces every published sensitivity, predictive value and accuracy of a row of COVID-Net (a test checks it).
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

from covid_xray.metrics.intervals import Interval, exact_interval

THREE, TWO = ("covid-19", "normal", "pneumonia"), ("negative", "positive")


@dataclass(frozen=True)
class PublishedResult:
    """One published result.

    Attributes:
        name: Model and test set.
        source: Publication.
        classes: The classes, sorted.
        test_list: Version of the COVIDx test list; empty for other test images.
        correct: Images classified correctly.
        total: Test images.
        covid_hits: COVID-19 images classified as COVID-19; None if not published.
        covid_cases: COVID-19 images in the test set; None if not published.
        note: What else was published.
        validation: Whether the model was chosen on validation images of its own.
        comparable: Which results it can be compared with.
    """

    name: str
    source: str
    classes: tuple[str, ...]
    test_list: str
    correct: int
    total: int
    covid_hits: int | None
    covid_cases: int | None
    note: str
    validation: str
    comparable: str

    def accuracy(self) -> Interval:
        """Accuracy with its exact interval; images count as independent, because patients were not published."""
        return exact_interval(self.correct, self.total)

    def covid_sensitivity(self) -> Interval:
        """COVID-19 sensitivity with its exact interval; nan if the counts were not published."""
        if self.covid_hits is None or self.covid_cases is None:
            return Interval(float("nan"), float("nan"), float("nan"), "", "counts not published")
        return exact_interval(self.covid_hits, self.covid_cases)

    def source_only(self) -> str:
        """Accuracy and COVID-19 hits that the source alone, or else the file type, gives on the same test list."""
        if (found := SOURCE_ONLY.get(self.test_list)) is None:
            return "not counted"
        accuracy = exact_interval(found.correct, found.total).text(percent=True)
        covid = f"COVID-19 {found.covid_hits} of {found.covid_cases}"
        return f"{accuracy}, {found.correct} of {found.total}, {covid}; from the {found.factor}"


class SourceOnlyCount(NamedTuple):
    """Score on a test list of a classifier that sees one factor of the images, learned from the training list."""

    factor: str
    correct: int
    total: int
    covid_hits: int
    covid_cases: int


# By test list, counted from the public lists by experiments/covidx. The first two lists name no sources.
SOURCE_ONLY = {
    "1": SourceOnlyCount("file type", 110, 210, 10, 10),
    "2": SourceOnlyCount("file type", 131, 231, 31, 31),
    "3": SourceOnlyCount("source", 200, 300, 100, 100),
    "4": SourceOnlyCount("source", 200, 300, 100, 100),
    "8B": SourceOnlyCount("source", 400, 400, 200, 200),
    "9A": SourceOnlyCount("source", 300, 400, 200, 200),
    "9B": SourceOnlyCount("source", 400, 400, 200, 200),
}

_COVIDX = (
    "Not comparable unless tested on the same COVIDx test images: other images, and the COVID-19 images come from "
    "another source than the normal ones."
)
_SOURCE_SUFFICES = (
    "Not comparable with a model that reads the lungs: all positive test images come from RICORD and all negative ones "
    "from RSNA, so the source alone classifies all 400."
)
_COVID_NET = "Wang, Lin and Wong 2020, COVID-Net"
_MODELS = "COVID-Net project, list of its models"
_ARTICLE = 'The article, "Diagnosing COVID-19 using Chest X-Rays", April 2020'
_NONE = "no: COVID-Net offers none"
_ON_TEST = "no: the checkpoint was chosen on the test list"


def _covid_net(
    name: str, hits: tuple[int, int, int], sizes: tuple[int, int, int], test_list: str, source: str = _MODELS
) -> PublishedResult:
    """A row of COVID-Net's three-class models: hits and sizes of normal, pneumonia and COVID-19."""
    note = "10 COVID-19 images from 5 patients" if sizes[2] == 10 else f"{sizes[2]} COVID-19 images"
    total = sum(sizes)
    return PublishedResult(name, source, THREE, test_list, sum(hits), total, hits[2], sizes[2], note, _NONE, _COVIDX)


_HUNDRED = (100, 100, 100)
PUBLISHED = (
    _covid_net("COVID-Net, first version", (95, 91, 8), (100, 100, 10), "1", _COVID_NET),
    PublishedResult(
        "COVID-Next ResNeXt-50",
        "velebit-ai, COVID-Next-Pytorch, March 2020",
        THREE,
        "1",
        199,
        210,
        None,
        None,
        "macro recall 90.33 %; counts from an accuracy of 94.76 % of 210 images",
        "no: its authors list one as future work",
        _COVIDX,
    ),
    _covid_net("COVID-Net Small", (97, 90, 27), (100, 100, 31), "2"),
    _covid_net("COVID-Net Large", (99, 89, 30), (100, 100, 31), "2"),
    _covid_net("COVIDNet-CXR3-A", (93, 93, 94), _HUNDRED, "3"),
    _covid_net("COVIDNet-CXR3-B", (95, 94, 91), _HUNDRED, "3"),
    _covid_net("COVIDNet-CXR3-C", (92, 90, 95), _HUNDRED, "3"),
    _covid_net("COVIDNet-CXR4-A", (94, 94, 95), _HUNDRED, "4"),
    _covid_net("COVIDNet-CXR4-B", (96, 92, 93), _HUNDRED, "4"),
    _covid_net("COVIDNet-CXR4-C", (95, 89, 96), _HUNDRED, "4"),
    PublishedResult(
        "COVID-Net CXR-2",
        _MODELS,
        TWO,
        "8B",
        385,
        400,
        191,
        200,
        "sensitivity of negative 97.0 %",
        _NONE,
        _SOURCE_SUFFICES,
    ),
    PublishedResult(
        "COVID-Net CXR-3 (MEDUSA)",
        "COVID-Net project, list of its models, October 2021",
        TWO,
        "8B",
        393,
        400,
        195,
        200,
        "sensitivity of negative 99.0 %; another network than COVIDNet-CXR3-A to C",
        _NONE,
        _SOURCE_SUFFICES,
    ),
    PublishedResult(
        "EVA-X-S",
        "EVA-X, on the COVIDx CXR-3 images",
        TWO,
        "9B",
        390,
        400,
        None,
        None,
        "counts from an accuracy of 97.5 %",
        _ON_TEST,
        _SOURCE_SUFFICES,
    ),
    PublishedResult(
        "Medical-MAE ViT-S and ViT-B",
        "Medical-MAE, on COVIDx 9A",
        THREE,
        "9A",
        381,
        400,
        None,
        None,
        "accuracies of 95.2 % and 95.3 %, both 381 of 400",
        "no: the maximum of the test accuracy over the epochs",
        _COVIDX,
    ),
    PublishedResult(
        "The article, COVIDx test images",
        _ARTICLE,
        THREE,
        "",
        1450,
        1488,
        10,
        10,
        "weighted F1 0.974; 10 of 10 against COVID-Net's 8 of 10 is no significant difference (Fisher's exact p = "
        "0.47)",
        "yes, drawn by image",
        "Not comparable with any result: about 80 % of these test images were also training images, the test images "
        "were augmented, and the source reveals the label.",
    ),
    PublishedResult(
        "The article, its validation images",
        _ARTICLE,
        THREE,
        "",
        2852,
        3000,
        None,
        None,
        "error rate 4.93 % in the last epoch; the only estimate of the notebook without leakage",
        "these are the validation images",
        "Comparable only with a validation accuracy on a random split by image of the same data; with a split by "
        "patient, expect a lower accuracy.",
    ),
    PublishedResult(
        "DarkCovidNet, 5 folds split by image",
        "Ozturk et al. 2020, Computers in Biology and Medicine 121",
        THREE,
        "",
        979,
        1125,
        None,
        None,
        "three classes; 125 COVID-19, 500 normal and 500 pneumonia images; every COVID-19 image comes from another "
        "source than all others",
        "no: the weights of the last epoch",
        "Comparable with all five folds, split by image, of the chest-xrays data (1,124 of its 1,125 images); not "
        "comparable with a single fold or with a split by patient: its training and test images share patients.",
    ),
)

PUBLISHED_HEADER = (
    "Result",
    "Accuracy (95 %)",
    "COVID-19 sensitivity (95 %)",
    "Accuracy from the source alone (95 %)",
    "Validation set of its own?",
    "Note",
    "Can it be compared",
    "Source",
)


def fitting(class_names: Iterable[str]) -> tuple[PublishedResult, ...]:
    """The published results with exactly these classes; case and punctuation of the names do not matter."""
    wanted = sorted(map(_plain, class_names))
    return tuple(result for result in PUBLISHED if sorted(map(_plain, result.classes)) == wanted)


def published_rows(results: Iterable[PublishedResult] = PUBLISHED) -> tuple[tuple[str, ...], ...]:
    """Rows for a table with the columns of `PUBLISHED_HEADER`."""
    return tuple(
        (
            f"{result.name}, COVIDx {result.test_list}" if result.test_list else result.name,
            f"{result.accuracy().text(percent=True)}, {result.correct} of {result.total}",
            "not published"
            if result.covid_hits is None
            else f"{result.covid_sensitivity().text(percent=True)}, {result.covid_hits} of {result.covid_cases}",
            result.source_only(),
            result.validation,
            result.note,
            result.comparable,
            result.source,
        )
        for result in results
    )


def _plain(name: str) -> str:
    return "".join(character for character in name.casefold() if character.isalnum())
