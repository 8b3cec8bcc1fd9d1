"""Compare evaluated runs image by image on the same test images."""

from collections.abc import Sequence
from pathlib import Path

from covid_xray.errors import UserError
from covid_xray.metrics.bootstrap import RESAMPLES
from covid_xray.metrics.comparison import Comparison, compare
from covid_xray.metrics.predictions import read_predictions
from covid_xray.runs.folder import PREDICTIONS_FILE, RunFolder


def compare_runs(
    runs: Sequence[str | Path], name: str = "test", resamples: int = RESAMPLES, seed: int = 0
) -> list[Comparison]:
    """Compare every run with the first: paired differences of all metrics, and McNemar's test.

    Args:
        runs: Folders of evaluated runs, or of cross-validations.
        name: Name of the evaluation in each.
        resamples: Resamples of the bootstrap.
        seed: Seed of the bootstrap.

    Raises:
        UserError: If a run is not evaluated, or the test images differ.
    """
    if len(runs) < 2:
        raise UserError("runs must list at least two run folders: runs=[A,B]")
    files = [prediction_file(Path(run), name) for run in runs]
    names = short_names([Path(run) for run in runs])
    first, *others = (read_predictions(file) for file in files)
    return [
        compare(first, other, (names[0], other_name), resamples, seed)
        for other_name, other in zip(names[1:], others, strict=True)
    ]


def prediction_file(run: Path, name: str) -> Path:
    """The predictions of an evaluation.

    Raises:
        UserError: If there are none.
    """
    if not run.is_dir():
        raise UserError(f"runs: {run} is no folder")
    file = RunFolder(run).evaluation(name) / PREDICTIONS_FILE
    if not file.is_file():
        raise UserError(f"{run} has no evaluation {name!r}; run covid-xray evaluate run={run} first")
    return file


def short_names(paths: Sequence[Path]) -> list[str]:
    """The folders' names, with as many parents as are needed to distinguish them.

    Raises:
        UserError: If a folder is listed twice.
    """
    parts = [path.resolve().parts for path in paths]
    if len(set(parts)) < len(parts):
        raise UserError("runs lists a run twice")
    for depth in range(1, max(map(len, parts)) + 1):
        names = ["/".join(part[-depth:]) for part in parts]
        if len(set(names)) == len(names):
            return names
    return [str(path) for path in paths]
