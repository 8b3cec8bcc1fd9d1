"""Weights & Biases: a continued run goes on in the same W&B run, with every step once."""

import os
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.utilities import rank_zero_only
from PIL import Image

from covid_xray.errors import UserError

try:
    import wandb
except ImportError:
    raise UserError("logger=wandb needs wandb: pip install 'covid-xray[wandb]'") from None

_OFFLINE = ("offline", "dryrun")


class WandbRunLogger(WandbLogger):
    """Logs into W&B, by step: what is logged at one step is one row of W&B's history.

    W&B's server leaves out the steps that it has already. Offline, W&B makes a folder for each session, writes late, so
    that a kill loses the last steps, and uploads only one folder of a run. So a continued run replaces the folder of
    the earlier session: the values come from ``curves.csv``, and pictures are kept beside the folder.

    Args:
        save_dir: The run folder; W&B's files are in ``wandb`` in it.
        project: W&B's project, which holds the runs.
        offline: Whether to write files only.
        **settings: Further arguments of `lightning.pytorch.loggers.WandbLogger` and of `wandb.init`.
    """

    def __init__(self, save_dir: str, project: str = "covid-xray", offline: bool = False, **settings: Any) -> None:
        offline = offline or os.environ.get("WANDB_MODE") in _OFFLINE
        if offline:  # Lightning's own argument would set an environment variable, for later runs too
            settings["mode"] = "offline"
        super().__init__(save_dir=save_dir, project=project, **settings)
        self._is_offline = offline
        self._folder = Path(save_dir) / "wandb"
        self._pictures: list[tuple[int, str, Path]] = []  # of earlier sessions, by step; not yet logged again

    def open(self, run_id: str, name: str, first_step: int) -> None:
        """Start a W&B run, or continue that of an earlier session.

        Args:
            run_id: Identifier of the run.
            name: Shown name of a new W&B run.
            first_step: The first step that will be logged (again).

        Raises:
            UserError: If W&B cannot start a run, such as without an account.
        """
        if self._is_offline:
            for earlier in self._folder.glob(f"offline-run-*-{run_id}"):
                shutil.rmtree(earlier)
        for file in sorted(self._folder.glob("pictures/*.png")):
            step, _, key = file.stem.partition("@")
            if int(step) < first_step:
                self._pictures.append((int(step), unquote(key), file))
            else:
                file.unlink()
        self._id = run_id
        self._wandb_init.pop("anonymous")  # Lightning always passes it, and W&B warns
        self._wandb_init |= {"id": run_id, "name": self._wandb_init["name"] or name, "reinit": "finish_previous"}
        self._wandb_init.setdefault("settings", wandb.Settings(quiet=True))
        stdin = sys.stdin
        try:
            with Path(os.devnull).open() as sys.stdin:  # W&B would ask for an account, and wait
                self._experiment = wandb.init(**self._wandb_init)
        except (wandb.Error, ValueError, TypeError) as error:
            raise UserError(
                f"logger=wandb: {' '.join(str(error).split())[:200]}; use `wandb login` first, or add "
                f"logger.wandb.offline=true"
            ) from error
        finally:
            sys.stdin = stdin

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        """Log values, after the pictures of earlier steps; without steps that W&B has already."""
        step, run = 0 if step is None else step, self.experiment
        while self._pictures and self._pictures[0][0] <= step:
            earlier, key, file = self._pictures.pop(0)
            if earlier >= run.starting_step:
                run.log({key: wandb.Image(str(file))}, step=earlier)
        if step >= run.starting_step:
            run.log(dict(metrics), step=step)

    @rank_zero_only
    def log_image(self, key: str, images: list[Image.Image], step: int | None = None, **keywords: Any) -> None:
        """Log pictures, and keep a copy for a session that continues."""
        for image in images:
            file = self._folder / "pictures" / f"{step or 0:09}@{quote(key, safe='')}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            image.save(file)
            self.log_metrics({key: wandb.Image(str(file))}, step)

    @rank_zero_only
    def log_file(self, name: str, text: str) -> None:
        """Store a text file with the run."""
        file = Path(self.experiment.dir) / name
        file.write_text(text, encoding="utf-8")
        self.experiment.save(str(file), base_path=str(file.parent), policy="now")

    @rank_zero_only
    def close(self, failed: bool) -> None:
        """End the session, so that the next run of this process starts its own."""
        if self._experiment is not None:
            self._experiment.finish(exit_code=int(failed))
            self._experiment = None
