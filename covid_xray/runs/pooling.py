"""The folds of a cross-validation: which evaluations belong together, and which must be made again."""

import json
from collections.abc import Sequence
from pathlib import Path

from covid_xray.errors import UserError
from covid_xray.runs.config import check_run, select
from covid_xray.runs.folder import CONFIG_FILE, METRICS_FILE, RunFolder
from covid_xray.runs.provenance import file_hash


def fold_runs(path: Path) -> list[Path]:
    """Folders of the finished runs in a folder that is no run itself, by name; none for a run."""
    if (path / CONFIG_FILE).is_file() or not path.is_dir():
        return []
    return sorted(file.parent for file in path.glob(f"*/{METRICS_FILE}") if (file.parent / CONFIG_FILE).is_file())


def check_folds(path: Path, runs: Sequence[Path], checkpoint: str | None = None, trust: bool = False) -> None:
    """Check that the runs are all folds of one cross-validation.

    Raises:
        UserError: If they are not.
    """
    if len(runs) < 2:
        raise UserError(f"run={path} holds one finished run only; give run= that run's folder")
    seen: dict[int, Path] = {}
    folds = set()
    for run in runs:
        config = check_run(run, checkpoint, trust)[1]
        fold = select(config, "split.fold")
        folds.add(select(config, "split.folds"))
        if fold in seen:
            raise UserError(f"{seen[fold].name} and {run.name} are both fold {fold}; pooling needs every fold once")
        seen[fold] = run
    if len(folds) != 1 or None in folds:
        raise UserError(f"run={path}: the runs are not the folds of one cross-validation (split.folds differs)")
    wanted = int(folds.pop())
    if missing := sorted(set(range(wanted)) - set(seen)):
        raise UserError(f"run={path}: fold {missing[0]} of {wanted} is missing or not finished; train it first")


def is_current(run: Path, name: str, checkpoint: str | None = None, trust: bool = False) -> bool:
    """Whether the evaluation of a fold is of its present checkpoint, and calibrated."""
    try:
        metrics = RunFolder(run).evaluation(name) / METRICS_FILE
        found = json.loads(metrics.read_text(encoding="utf-8"))
        folder, _, chosen, _ = check_run(run, checkpoint, trust)
        same = found["provenance"]["checkpoint"] == f"{chosen}.ckpt, SHA-256 {file_hash(folder.checkpoint(chosen))}"
        return bool(same and found["written_predictions"] == "calibrated")
    except (OSError, ValueError, KeyError, TypeError):
        return False
