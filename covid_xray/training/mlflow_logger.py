"""MLflow: a continued run goes on in the same MLflow run, with every value once."""

import contextlib
import logging
import os
import re
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from lightning.pytorch.loggers import MLFlowLogger
from lightning.pytorch.utilities import rank_zero_only
from PIL import Image

from covid_xray.errors import UserError

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # it would send usage data
try:
    from mlflow.entities import Metric, Param
    from mlflow.exceptions import MlflowException
    from mlflow.tracking import MlflowClient
except ImportError:
    raise UserError("logger=mlflow needs mlflow: pip install 'covid-xray[mlflow]'") from None

logging.getLogger("mlflow").setLevel(logging.WARNING)  # it prints every table that it makes
DEFAULT_URI = "sqlite:///outputs/mlflow.db"
_TAG = "covid_xray.run"


class MlflowRunLogger(MLFlowLogger):
    """Logs into an MLflow server or a local SQLite file.

    The run is found again by a tag. MLflow would store the value of a step that is logged again beside the first one,
    so that the steps that a killed session logged after its last checkpoint are left out when they are repeated.

    Args:
        save_dir: The run folder.
        tracking_uri: The server or file; None: the environment's ``MLFLOW_TRACKING_URI``, or `DEFAULT_URI`.
        experiment_name: MLflow's experiment, which holds the runs.
        **settings: Further arguments of `lightning.pytorch.loggers.MLFlowLogger`.

    Raises:
        UserError: If the address is of no known kind, or the file cannot be made.
    """

    def __init__(
        self, save_dir: str, tracking_uri: str | None = None, experiment_name: str = "covid-xray", **settings: Any
    ) -> None:
        uri = tracking_uri or os.environ.get("MLFLOW_TRACKING_URI") or DEFAULT_URI
        if uri.startswith("sqlite:///"):
            folder = Path(uri.removeprefix("sqlite:///")).absolute().parent
            folder.mkdir(parents=True, exist_ok=True)
            settings.setdefault("artifact_location", (folder / "mlflow-artifacts").as_uri())
        self._uri, self._run_folder = uri, save_dir
        self._logged: dict[str, int] = {}  # newest step by MLflow's name of the metric
        with self._errors():
            super().__init__(experiment_name, tracking_uri=uri, **settings)

    @property
    def save_dir(self) -> str:
        """The run folder."""
        return self._run_folder

    def open(self, run_id: str, name: str, first_step: int) -> None:
        """Find the MLflow run of an earlier session; otherwise the first value makes one.

        Args:
            run_id: Identifier of the run.
            name: Shown name of a new MLflow run.
            first_step: Not needed: MLflow knows which steps it has.
        """
        client: MlflowClient = self._mlflow_client
        self._run_name = self._run_name or name
        self.tags = {**(self.tags or {}), _TAG: run_id}
        with self._errors():
            self._experiment_id = self._find_experiment()
            for run in client.search_runs([self._experiment_id], f"tags.`{_TAG}` = '{run_id}'", max_results=1):
                self._run_id = run.info.run_id
                client.update_run(self._run_id, status="RUNNING")
                for metric in run.data.metrics:
                    self._logged[metric] = max(old.step for old in client.get_metric_history(self._run_id, metric))

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Log values, in one transaction; without those that MLflow has already."""
        step, now = 0 if step is None else step, int(1000 * time.time())
        named = {mlflow_name(name): float(value) for name, value in metrics.items()}
        new = [Metric(name, value, now, step) for name, value in named.items() if step > self._logged.get(name, -1)]
        if new:
            with self._errors():
                self.experiment.log_batch(self.run_id, metrics=new, **self._log_batch_kwargs)

    @rank_zero_only
    def log_hyperparams(self, params: Any, *arguments: Any, **keywords: Any) -> None:
        """Log settings; without those that MLflow has already, which it would not let change."""
        with self._errors():
            known = self.experiment.get_run(self.run_id).data.params
            named = {mlflow_name(name): str(value)[:6000] for name, value in params.items()}
            new = [Param(name, value) for name, value in named.items() if name not in known]
            for start in range(0, len(new), 100):  # the most that MLflow takes at once
                self.experiment.log_batch(self.run_id, params=new[start : start + 100], **self._log_batch_kwargs)

    @rank_zero_only
    def log_image(self, key: str, images: list[Image.Image], step: int | None = None) -> None:
        """Store pictures as ``KEY/STEP.png``; one that is drawn again replaces the first."""
        with self._errors():
            for image in images:
                file = f"{mlflow_name(key)}/{step or 0:06}.png"
                self.experiment.log_image(self.run_id, np.asarray(image), artifact_file=file)

    @rank_zero_only
    def log_file(self, name: str, text: str) -> None:
        """Store a text file."""
        with self._errors():
            self.experiment.log_text(self.run_id, text, name)

    def close(self, failed: bool) -> None:
        """End the session."""
        self.finalize("failed" if failed else "success")

    @rank_zero_only
    def finalize(self, status: str = "success") -> None:
        """Set the status of the MLflow run."""
        with self._errors():
            super().finalize(status)

    def _find_experiment(self) -> str:
        client: MlflowClient = self._mlflow_client
        experiment = client.get_experiment_by_name(self._experiment_name)
        if experiment is None:
            try:
                return str(client.create_experiment(self._experiment_name, self._artifact_location))
            except MlflowException:  # another job of a sweep may have made it since
                experiment = client.get_experiment_by_name(self._experiment_name)
                if experiment is None:
                    raise
        return str(experiment.experiment_id)

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except MlflowException as error:
            reason = " ".join(str(error).split())[:200]
            raise UserError(f"logger=mlflow: {self._uri} cannot be used ({reason}); correct the address") from error


def mlflow_name(name: str) -> str:
    """A name as MLflow permits it: other characters become their code point.

    Args:
        name: Such as ``val/recall/no finding (normal)``.

    Returns:
        Such as ``val/recall/no finding _28normal_29``.
    """
    return re.sub(r"[^/\w.\- ]", lambda found: f"_{ord(found[0]):x}", name)
