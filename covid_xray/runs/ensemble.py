"""An ensemble: several trained runs of the same classes, whose calibrated probabilities are averaged."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from covid_xray.errors import UserError
from covid_xray.metrics.bootstrap import RESAMPLES
from covid_xray.runs.compare import short_names
from covid_xray.runs.evaluate import EvaluationResult, evaluate_run
from covid_xray.runs.export import export_run
from covid_xray.runs.load import Run, load_run
from covid_xray.runs.pooling import Combined, Member, combine, member_runs
from covid_xray.runs.predict import check_same_classes, predict_images


@dataclass(frozen=True, eq=False)
class Ensemble:
    """Several trained runs of the same classes.

    Attributes:
        members: The runs.
        names: A short name of each.
    """

    members: tuple[Run, ...]
    names: tuple[str, ...]

    @property
    def class_names(self) -> tuple[str, ...]:
        """Classes in the order of the probabilities."""
        return self.members[0].class_names

    def predict(
        self, images: Sequence[str | Path | np.ndarray[Any, Any]], confidence: float | None = None
    ) -> pd.DataFrame:
        """Class, mean calibrated probabilities, out-of-distribution score and flags of images.

        See `covid_xray.runs.predict.predict_images`.
        """
        return predict_images(self.members, images, confidence)

    def evaluate(self, records: pd.DataFrame | None = None, **settings: Any) -> "EnsembleResult":
        """Evaluate the members together: averaged, and pooled where they are the folds of a cross-validation.

        On other records all members are averaged; on their own test images, the members of one fold are averaged and
        the folds are pooled.

        Args:
            records: See `covid_xray.runs.evaluate.evaluate_run`.
            **settings: See `covid_xray.runs.evaluate.evaluate_run`.

        Raises:
            UserError: As `covid_xray.runs.evaluate.evaluate_run` and `covid_xray.runs.pooling.combine`.
        """
        results = {
            name: evaluate_run(run, records, **settings) for name, run in zip(self.names, self.members, strict=True)
        }
        members = {
            name: Member(
                result.run.config,
                result.run.splits,
                result.predictions,
                result.calibration is not None,
                result.is_own_data,
                str(settings.get("subset", "test")),
                result.leaks,
            )
            for name, result in results.items()
        }
        combined = combine(members, settings.get("resamples", RESAMPLES), settings.get("seed", 0))
        return EnsembleResult(combined, results)

    def export(self, output: str | Path, format: str | None = None, **settings: Any) -> float | None:
        """Export as one ONNX file; see `covid_xray.runs.export.export_run`."""
        return export_run(self.members, Path(output), format, **settings)


@dataclass(frozen=True, eq=False)
class EnsembleResult:
    """Result of `Ensemble.evaluate`.

    Attributes:
        combined: The metrics of the members as one.
        members: The evaluation of every member, by name.
    """

    combined: Combined
    members: dict[str, EvaluationResult]

    @property
    def metrics(self) -> Any:
        """Value and 95 % interval by name, such as ``macro_auroc`` or ``sensitivity/covid-19``."""
        return self.combined.estimates.intervals


def load_ensemble(
    runs: str | Path | Sequence[str | Path],
    checkpoint: str | None = None,
    accelerator: str = "auto",
    trust: bool = False,
) -> Ensemble:
    """Load several runs as one.

    Args:
        runs: Run folders or bundles, or a folder that holds them, such as that of a sweep.
        checkpoint: See `covid_xray.runs.load.load_run`.
        accelerator: See `covid_xray.runs.load.load_run`.
        trust: See `covid_xray.runs.load.load_run`.

    Raises:
        UserError: As `covid_xray.runs.load.load_run`, and if there is one run only, or the classes differ.
    """
    paths = member_runs(runs if isinstance(runs, str | Path) else [*runs])
    if len(paths) < 2:
        raise UserError(f"an ensemble needs at least two runs, and {runs} names one; use load_run")
    members = tuple(load_run(path, checkpoint, accelerator, trust) for path in paths)
    check_same_classes(members)
    return Ensemble(members, tuple(short_names(paths)))
