"""The folds of a cross-validation: which evaluations belong together, and which must be made again."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from covid_xray.errors import UserError
from covid_xray.runs.config import check_run, select
from covid_xray.runs.folder import CONFIG_FILE, METRICS_FILE, RunFolder, read_json
from covid_xray.runs.provenance import file_hash


def fold_runs(path: Path) -> list[Path]:
    """Folders of the finished runs in a folder that is no run itself, by name; none for a run."""
    if (path / CONFIG_FILE).is_file() or not path.is_dir():
        return []
    return sorted(file.parent for file in path.glob(f"*/{METRICS_FILE}") if (file.parent / CONFIG_FILE).is_file())


def check_folds(path: Path, runs: Sequence[Path], checkpoint: str | None = None, trust: bool = False) -> None:
    """Check that the runs are all folds of one cross-validation, or were each tested on another source.

    Raises:
        UserError: If they are not.
    """
    if len(runs) < 2:
        raise UserError(f"run={path} holds one finished run only; give run= that run's folder")
    configs = {run: check_run(run, checkpoint, trust)[1] for run in runs}
    sources = {run.name: select(config, "split.test_source") for run, config in configs.items()}
    if all(isinstance(source, str) for source in sources.values()):
        if len(set(sources.values())) < len(sources):
            raise UserError(f"run={path}: two runs were tested on the same source; pooling needs every source once")
        return
    seen: dict[int, Path] = {}
    folds = set()
    for run, config in configs.items():
        fold, of = select(config, "split.fold"), select(config, "split.folds")
        if not isinstance(fold, int) or not isinstance(of, int):
            raise UserError(f"{run} is not a fold of a cross-validation (split.fold={fold!r}, split.folds={of!r})")
        folds.add(of)
        if fold in seen:
            raise UserError(f"{seen[fold].name} and {run.name} are both fold {fold}; pooling needs every fold once")
        seen[fold] = run
    if len(folds) != 1:
        raise UserError(f"run={path}: the runs are not the folds of one cross-validation (split.folds differs)")
    wanted = folds.pop()
    if missing := sorted(set(range(wanted)) - set(seen)):
        raise UserError(f"run={path}: fold {missing[0]} of {wanted} is missing or not finished; train it first")


def is_current(
    run: Path, name: str, request: Mapping[str, Any], checkpoint: str | None = None, trust: bool = False
) -> bool:
    """Whether the evaluation of a fold is of its present checkpoint and test data, calibrated, and the same request.

    Args:
        run: The fold's run.
        name: Name of the evaluation.
        request: Arguments of `covid_xray.runs.evaluate.evaluate_run`; empty mappings and None are the same.
        checkpoint: See `covid_xray.runs.config.check_run`.
        trust: See `covid_xray.runs.config.check_run`.
    """
    try:
        found = read_json(RunFolder(run).evaluation(name) / METRICS_FILE)
        folder, _, chosen, _ = check_run(run, checkpoint, trust)
        same = found["provenance"]["checkpoint"] == f"{chosen}.ckpt, SHA-256 {file_hash(folder.checkpoint(chosen))}"
        asked = {key: value if value is not None else {} for key, value in request.items()}
        same = same and found["request"] == asked and found["own_test_images"] is True
        texts = [found["shortcuts"]["verdict"], *found["leaks"]] if isinstance(found["leaks"], list) else [None]
        return bool(same and found["written_predictions"] == "calibrated" and all(isinstance(t, str) for t in texts))
    except (OSError, ValueError, KeyError, TypeError):
        return False
