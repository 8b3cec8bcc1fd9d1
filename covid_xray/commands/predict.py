"""Predict the class of images with a trained run, for research only: probabilities, class and flags in a table."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf

from covid_xray.commands._build import resolve
from covid_xray.errors import UserError, printable
from covid_xray.imports import quick_imports
from covid_xray.runs.config import check_run
from covid_xray.runs.pooling import member_runs
from covid_xray.runs.prediction_file import FORMATS, PredictionFile, list_images

if TYPE_CHECKING:
    from covid_xray.runs.predict import Predictor


def run(cfg: DictConfig) -> None:
    """Predict, row by row in the order of the input; the same command continues where it was stopped."""
    kind = _check(cfg)
    runs = member_runs(cfg.run)
    for run in runs:
        check_run(run, cfg.checkpoint, cfg.trust)
    if next(list_images(cfg.input), None) is None:
        raise UserError(f"input={cfg.input} holds no images")
    with quick_imports():
        from covid_xray.runs.load import load_run, with_onnx
        from covid_xray.runs.predict import Predictor

    loaded = [
        load_run(run, cfg.checkpoint, cfg.accelerator, cfg.trust, fold_batchnorm=cfg.fold_batchnorm) for run in runs
    ]
    if cfg.backend != "torch":
        name = "model.onnx" if cfg.backend == "onnx" else "model-int8.onnx"
        loaded = [with_onnx(run, run.folder.export(name)) for run in loaded]
    predictor = Predictor.create(loaded, cfg.confidence, resolve(cfg)["shares"])
    if len(runs) > 1:
        print(f"Mean of the calibrated probabilities of {len(runs)} runs")
    if not predictor.calibrations:
        reason = printable(predictor.no_calibration)
        print(f"Not calibrated, and no image is flagged as unlike the training images: {reason}")
    file = PredictionFile(Path(str(cfg.output)), kind, predictor.columns, _origin(cfg, kind, predictor))
    left_out: Counter[str] = Counter()
    images = list_images(cfg.input, left_out)
    with file.held():
        done = file.begin()
        counts = _skip_done(file, images, done)
        if done:
            print(f"Continuing after {done} images")
        _predict(cfg, predictor, file, images, counts)
        file.finish()
    print(f"{', '.join(f'{count} {name}' for name, count in counts.items())}: {file.output}")
    if left_out:
        print(f"Left out: {', '.join(f'{count} {what}' for what, count in sorted(left_out.items()))}")
    print("Research only: not for diagnosis.")
    if counts["broken"] == counts["images"]:
        raise SystemExit(1)


def _check(cfg: DictConfig) -> str:
    for key in ("run", "input", "output"):
        if OmegaConf.is_missing(cfg, key) or cfg[key] is None:
            raise UserError(f"{key} must be given: add {key}=... to the command")
    output = Path(str(cfg.output))
    kind = cfg.format or output.suffix.lower().removeprefix(".")
    if kind not in FORMATS:
        raise UserError(f"format must be csv or jsonl, not {kind!r}; name the output FILE.csv, or set format")
    if output.is_dir():
        raise UserError(f"output={output} is a folder; give the name of a file")
    if output.exists() and cfg.overwrite is not True:
        raise UserError(f"output={output} exists already; use overwrite=true or another name")
    if cfg.backend not in ("torch", "onnx", "onnx-int8"):
        raise UserError(f"backend must be torch, onnx or onnx-int8, not {cfg.backend!r}")
    if not isinstance(cfg.fold_batchnorm, bool):
        raise UserError(f"fold_batchnorm must be true or false, not {cfg.fold_batchnorm!r}")
    limit = cfg.confidence
    if limit is not None and (isinstance(limit, bool) or not isinstance(limit, int | float) or not 0 <= limit <= 1):
        raise UserError(f"confidence must be from 0 to 1, not {limit!r}")
    for key in ("batch_size", "threads"):
        value = cfg[key]
        if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
            raise UserError(f"{key} must be a whole number of at least 1, or null, not {value!r}")
    return str(kind)


def _origin(cfg: DictConfig, kind: str, predictor: "Predictor") -> dict[str, object]:
    """What the rows depend on."""
    return {
        "input": str(cfg.input),
        "format": kind,
        "checkpoint": " ".join(run.checkpoint_sha256 for run in predictor.runs),
        "temperature": list(predictor.temperatures) if predictor.calibrations else None,
        "confidence": predictor.confidence,
        **({} if predictor.shares is None else {"shares": list(predictor.shares)}),
        "precision": " ".join(run.precision for run in predictor.runs),
        **({"fold_batchnorm": True} if cfg.fold_batchnorm else {}),
    }


def _skip_done(file: PredictionFile, images: Iterator[str], done: int) -> dict[str, int]:
    """Advance to the first image that is not done, and count the rows before it."""
    counts = {"images": 0, "broken": 0, "flagged": 0}
    for number, row in enumerate(islice(file.rows(), done)):
        path, now = row["path"], next(images, None)
        if now is None or now.encode("utf-8", "backslashreplace").decode() != path:
            raise UserError(
                f"the input is no longer what {file.part} was begun with (row {number + 1}: {path}); remove that file"
            )
        _count(counts, [row])
    return counts


def _count(counts: dict[str, int], rows: Sequence[Mapping[str, Any]]) -> None:
    counts["images"] += len(rows)
    counts["broken"] += sum(bool(row["error"]) for row in rows)
    counts["flagged"] += sum(bool(row["flag"]) for row in rows)


def _predict(
    cfg: DictConfig, predictor: "Predictor", file: PredictionFile, images: Iterator[str], counts: dict[str, int]
) -> None:
    from rich.console import Console
    from rich.progress import MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    console = Console(stderr=True)
    columns = (SpinnerColumn(), TextColumn("images"), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task("images", total=None, completed=counts["images"])
        for rows in predictor.predict(images, cfg.batch_size, cfg.threads):
            _count(counts, rows)
            file.append(rows, counts["images"])
            bar.advance(task, len(rows))
