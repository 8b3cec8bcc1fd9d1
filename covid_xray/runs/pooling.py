"""Several runs as one: the folds of a cross-validation pooled, and an ensemble averaged.

One rule says which: on another data set all runs are averaged; on their own test images the runs of one fold are
averaged and the folds are pooled, where runs that are no folds count as one fold.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from covid_xray.errors import UserError
from covid_xray.metrics.predictions import Predictions, average_predictions, pool_predictions, read_predictions
from covid_xray.runs.config import check_run, select
from covid_xray.runs.folder import METRICS_FILE, PREDICTIONS_FILE, RunFolder, damaged, flatten, is_number, read_json
from covid_xray.runs.provenance import file_hash

if TYPE_CHECKING:
    import pandas as pd

    from covid_xray.metrics.estimates import Estimates

Groups = dict[str, list[str]]  # names of the members by name of the fold


@dataclass(frozen=True, eq=False)
class Member:
    """The evaluation of one of several runs.

    Attributes:
        config: The run's configuration.
        splits: Its ``splits.csv``.
        predictions: Its predictions.
        is_calibrated: Whether they are calibrated.
        is_own_data: Whether the images are the run's own.
        subset: Which of its own images: ``test``, ``val`` or ``train``.
        leaks: One sentence for each leak between training and test.
    """

    config: Mapping[str, Any]
    splits: "pd.DataFrame"
    predictions: Predictions
    is_calibrated: bool
    is_own_data: bool
    subset: str
    leaks: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Combined:
    """Metrics of several runs as one.

    Attributes:
        groups: Names of the members by fold; one group if they are averaged only.
        members: The evaluation of every member, by name.
        predictions: Their combination: averaged in a group, pooled over the groups.
        estimates: Metrics of the combination.
        table: From `covid_xray.metrics.estimates.fold_table`: metrics of every fold or, in one group, of every member.
    """

    groups: Mapping[str, Sequence[str]]
    members: Mapping[str, Member]
    predictions: Predictions
    estimates: "Estimates"
    table: Mapping[str, Mapping[str, float]]

    @property
    def is_pooled(self) -> bool:
        """Whether the members are folds of a cross-validation."""
        return len(self.groups) > 1

    @property
    def text(self) -> str:
        """What was combined, such as ``5 folds pooled, each the mean of 3 runs``."""
        size = len(next(iter(self.groups.values())))
        if not self.is_pooled:
            return f"mean of {size} runs"
        return f"{len(self.groups)} folds pooled" + (f", each the mean of {size} runs" if size > 1 else "")


def member_runs(run: object) -> list[Path]:
    """The runs that ``run=`` names: itself, the finished runs or bundles in a folder, or those of a list.

    Raises:
        UserError: If a list is empty, or names a run twice.
    """
    if isinstance(run, Sequence) and not isinstance(run, str):
        runs = [member for item in run for member in member_runs(item)]
        if not runs:
            raise UserError("run=[] names no run; list run folders: run=[A,B]")
        if len({path.resolve() for path in runs}) < len(runs):
            raise UserError(f"run=[{','.join(map(str, run))}] names a run twice; leave one out")
        return runs
    path = Path(str(run))
    if RunFolder(path).config.is_file() or not path.is_dir():
        return [path]
    folders = [RunFolder(folder) for folder in sorted(path.iterdir()) if folder.is_dir()]
    found = [
        folder.path for folder in folders if folder.config.is_file() and (folder.metrics.is_file() or folder.is_bundle)
    ]
    if len(found) == 1:
        raise UserError(f"run={path} holds one finished run only; give run= that run's folder")
    return found or [path]


def fold_groups(configs: Mapping[str, Mapping[str, Any]]) -> Groups:
    """The members of each fold of a cross-validation; all in one group if they are of one fold, or no folds.

    Runs that were each tested on one source are the folds of a cross-validation over sources.

    Args:
        configs: Configuration of every member, by name.

    Raises:
        UserError: If they are not the folds of one cross-validation, a fold is missing, or has fewer runs than another.
    """
    sources = {name: select(config, "split.test_source") for name, config in configs.items()}
    if all(isinstance(source, str) for source in sources.values()):  # each run was tested on one source
        tested = sorted(set(sources.values()))
        return {source: [name for name in configs if sources[name] == source] for source in tested}
    of_run = {name: (select(config, "split.fold"), select(config, "split.folds")) for name, config in configs.items()}
    if not all(isinstance(value, int | None) for pair in of_run.values() for value in pair):
        raise UserError("the runs are not the folds of one cross-validation: split.fold or split.folds is no number")
    numbers = {of for _, of in of_run.values()}
    if numbers == {None}:
        return {"all": list(configs)}
    wanted = next(iter(numbers))
    if len(numbers) > 1 or not isinstance(wanted, int) or not all(isinstance(fold, int) for fold, _ in of_run.values()):
        raise UserError("the runs are not the folds of one cross-validation (split.folds differs); list those that are")
    folds: dict[int, list[str]] = {}
    for name, (fold, _) in sorted(of_run.items(), key=lambda item: item[1][0]):
        folds.setdefault(fold, []).append(name)
    missing = next((fold for fold in range(wanted) if fold not in folds), None)
    if len(folds) > 1 and missing is not None:
        raise UserError(f"fold {missing} of {wanted} is missing or not finished; train it first")
    most = max(folds, key=lambda fold: len(folds[fold]))
    if few := [fold for fold in folds if len(folds[fold]) < len(folds[most])]:
        raise UserError(
            f"fold {few[0]} has {len(folds[few[0]])} finished runs and fold {most} has {len(folds[most])}; "
            f"train the others first, or list as many runs of each fold"
        )
    return {f"fold {fold}" if len(names) > 1 else names[0]: names for fold, names in folds.items()}


def combine(members: Mapping[str, Member], resamples: int, seed: int) -> Combined:
    """Average the predictions of the members of each fold, pool the folds, and compute all metrics.

    Args:
        members: The evaluation of every run, by name.
        resamples: Resamples of the bootstrap.
        seed: Seed of the bootstrap.

    Raises:
        UserError: If a member of an average is not calibrated or has trained on a test patient, or if classes or images
            differ.
    """
    from covid_xray.metrics.estimates import estimate, fold_table

    is_own = all(member.is_own_data for member in members.values())
    groups = fold_groups({name: member.config for name, member in members.items()}) if is_own else {"all": [*members]}
    averaged = {}
    for group, names in groups.items():
        part = {name: members[name] for name in names}
        if len(part) > 1:
            _check_average(part)
        averaged[group] = average_predictions([member.predictions for member in part.values()])
    combined = pool_predictions(list(averaged.values()))
    alone = {name: member.predictions for name, member in members.items()}
    table = fold_table(averaged if len(groups) > 1 else alone)
    return Combined(groups, members, combined, estimate(combined, resamples, seed), table)


def read_member(run: Path, name: str, checkpoint: str | None = None, trust: bool = False) -> Member:
    """The stored evaluation of a run.

    Args:
        run: The run.
        name: Name of the evaluation.
        checkpoint: See `covid_xray.runs.config.check_run`.
        trust: See `covid_xray.runs.config.check_run`.

    Raises:
        UserError: If a file is damaged.
    """
    folder, config, _, splits = check_run(run, checkpoint, trust)
    file = folder.evaluation(name) / METRICS_FILE
    found = read_json(file)
    try:
        return Member(
            config,
            splits,
            read_predictions(file.with_name(PREDICTIONS_FILE)),
            found["written_predictions"] == "calibrated",
            found["own_test_images"] is True,
            str(found["request"]["subset"]),
            tuple(str(text) for text in found["leaks"]),
        )
    except (KeyError, TypeError) as error:
        raise damaged(file, f"{type(error).__name__}: {error}") from None


def differing_settings(configs: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Settings in which runs differ, without those that name files and folders."""
    flat = [flatten(config) for config in configs.values()]
    keys = sorted({key for each in flat for key in each})
    return [key for key in keys if key not in ("name", "run_dir") and len({each.get(key, "null") for each in flat}) > 1]


def is_current(
    run: Path, name: str, request: Mapping[str, Any], checkpoint: str | None = None, trust: bool = False
) -> bool:
    """Whether the evaluation of a run is of its present checkpoint and test data, calibrated, and the same request.

    Args:
        run: The run.
        name: Name of the evaluation.
        request: Arguments of `covid_xray.runs.evaluate.evaluate_run`; empty mappings and None are the same.
        checkpoint: See `covid_xray.runs.config.check_run`.
        trust: See `covid_xray.runs.config.check_run`.
    """
    try:
        found = read_json(RunFolder(run).evaluation(name) / METRICS_FILE)
        folder, _, chosen, _ = check_run(run, checkpoint, trust)
        file = folder.checkpoint(chosen)
        same = found["provenance"]["checkpoint"] == f"{file.name}, SHA-256 {file_hash(file)}"
        asked = {key: value if value is not None else {} for key, value in request.items()}
        same = same and found["request"] == asked and found["own_test_images"] is True
        same = same and found["shortcuts"]["cheats"] in (True, False, None)
        if (alone := found.get("source_only")) is not None:
            correct, total = alone["score"]["correct"], alone["score"]["test_images"]
            same = same and type(correct) is type(total) is int and is_number(total) and 0 <= correct <= total
        texts = [found["shortcuts"]["verdict"], *found["leaks"]] if isinstance(found["leaks"], list) else [None]
        return bool(same and found["written_predictions"] == "calibrated" and all(isinstance(t, str) for t in texts))
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _check_average(members: Mapping[str, Member]) -> None:
    """Check that probabilities are calibrated, and that no member has trained on a test patient."""
    for name, member in members.items():
        if not member.is_calibrated:
            raise UserError(
                f"{name} is not calibrated, and an ensemble averages calibrated probabilities; evaluate that run alone "
                "once where its own images are"
            )
        if member.is_own_data and member.subset != "test":
            continue
        # In another data set, the same id may be another patient; `leaks` names images with the same pixels.
        used = member.splits[member.splits["split"].isin(["train", "val"])]
        seen = set(used["patient_id"]) if member.is_own_data else set()
        for tester, other in members.items():
            if shared := sorted(seen & set(other.predictions.patients)):
                raise UserError(
                    f"{name} has {len(shared)} patients of the test images{f' of {tester}' if tester != name else ''} "
                    f"in training or validation, such as {shared[0]}; use runs with one split (split.seed=0), or other "
                    "images with data=..."
                )
        if leaks := [text for text in member.leaks if text.startswith("Leak")]:
            raise UserError(
                f"{name}: {leaks[0].rstrip('.')}; an ensemble is tested on patients that no member has seen"
            )
