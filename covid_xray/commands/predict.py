"""Predict the class of images with a trained run, for research only: probabilities, class and flags in a table."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf

from covid_xray.errors import UserError
from covid_xray.runs.load import check_run, load_run
from covid_xray.runs.prediction_file import FORMATS, PredictionFile, list_images

if TYPE_CHECKING:
    from covid_xray.runs.calibration import Calibration
    from covid_xray.runs.load import Run

UNSURE, UNLIKE = "unsure", "unlike the training images"


def run(cfg: DictConfig) -> None:
    """Predict, row by row in the order of the input; the same command continues where it was stopped."""
    kind = _check(cfg)
    check_run(cfg.run, cfg.checkpoint, cfg.trust)
    if next(list_images(cfg.input), None) is None:
        raise UserError(f"input={cfg.input} holds no images")
    trained = load_run(cfg.run, cfg.checkpoint, cfg.accelerator, cfg.trust)
    calibration, reason = _calibration(trained)
    if calibration is None:
        print(f"Not calibrated, and nothing is flagged as unlike the training images: {reason}")
    file = _file(cfg, kind, trained, calibration)
    done = file.begin()
    images = _skip_done(file, list_images(cfg.input), done)
    if done:
        print(f"Continuing after {done} images")
    counts = _predict(cfg, trained, calibration, file, images, done)
    file.finish()
    words = ", ".join(f"{count} {name}" for name, count in counts.items())
    print(f"{words}: {file.output}\nResearch only: not for diagnosis.")


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
    limit = cfg.confidence
    if limit is not None and (isinstance(limit, bool) or not isinstance(limit, int | float) or not 0 <= limit <= 1):
        raise UserError(f"confidence must lie between 0 and 1, not {limit!r}")
    for key in ("batch_size", "threads"):
        value = cfg[key]
        if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
            raise UserError(f"{key} must be a whole number of at least 1, or null, not {value!r}")
    return str(kind)


def _calibration(run: "Run") -> tuple["Calibration | None", str]:
    from covid_xray.runs.calibration import calibration_of
    from covid_xray.runs.images import read_records

    calibration, reason = calibration_of(run, None)
    if calibration is not None:
        return calibration, reason
    try:
        return calibration_of(run, read_records(run.cfg.data))
    except UserError as error:
        return None, f"{error}; run covid-xray evaluate where the run's data lies"


def _file(cfg: DictConfig, kind: str, run: "Run", calibration: "Calibration | None") -> PredictionFile:
    columns = ("path", "prediction", "confidence", *(f"p_{name}" for name in run.class_names))
    origin = {
        "input": str(cfg.input),
        "format": kind,
        "checkpoint": run.checkpoint_sha256,
        "temperature": None if calibration is None else calibration.temperature.value,
        "confidence": _limit(cfg, calibration),
        "precision": run.precision,
    }
    return PredictionFile(Path(str(cfg.output)), kind, (*columns, "ood_score", "flag", "error"), origin)


def _limit(cfg: DictConfig, calibration: "Calibration | None") -> float:
    if cfg.confidence is not None:
        return float(cfg.confidence)
    return calibration.confidence_limit if calibration is not None else 0.0


def _skip_done(file: PredictionFile, images: Iterator[str], done: int) -> Iterator[str]:
    for number, path in enumerate(islice(file.paths(), done)):
        now = next(images, None)
        if now is None or now.encode("utf-8", "backslashreplace").decode() != path:
            raise UserError(
                f"the input is no longer what {file.part} was begun with (row {number + 1}: {path}); remove that file"
            )
    return images


def _predict(
    cfg: DictConfig,
    run: "Run",
    calibration: "Calibration | None",
    file: PredictionFile,
    images: Iterator[str],
    done: int,
) -> dict[str, int]:
    from rich.console import Console
    from rich.progress import MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    from covid_xray.data.datamodule import default_workers

    counts = {"images": done, "broken": 0, "flagged": 0}
    limit = _limit(cfg, calibration)
    console = Console(stderr=True)
    look = (SpinnerColumn(), TextColumn("images"), MofNCompleteColumn(), TimeElapsedColumn())
    with (
        ThreadPoolExecutor(cfg.threads or default_workers()) as pool,
        Progress(*look, console=console, disable=not console.is_terminal) as bar,
    ):
        task = bar.add_task("images", total=None, completed=done)
        for names, read in _read_ahead(pool, images, cfg.batch_size or run.batch_size, run):
            rows = _rows(run, calibration, limit, names, read)
            counts["images"] += len(rows)
            counts["broken"] += sum(bool(row["error"]) for row in rows)
            counts["flagged"] += sum(bool(row["flag"]) for row in rows)
            file.append(rows, counts["images"])
            bar.advance(task, len(rows))
    return counts


def _read_ahead(
    pool: ThreadPoolExecutor, images: Iterator[str], step: int, run: "Run"
) -> Iterator[tuple[list[str], list[Any]]]:
    """Read one batch while the one before is computed: two batches in memory, however many images there are."""
    read = _reader(run.base_size, run.image_size)
    waiting: tuple[list[str], Any] | None = None
    while names := list(islice(images, step)):
        coming = (names, pool.map(read, names))
        if waiting is not None:
            yield waiting[0], list(waiting[1])
        waiting = coming
    if waiting is not None:
        yield waiting[0], list(waiting[1])


def _reader(first: int, size: int) -> Callable[[str], Any]:
    from covid_xray.data.augmentation import resize
    from covid_xray.data.images.grey import ImageError
    from covid_xray.data.images.read import read_image

    def read(path: str) -> Any:
        try:
            return resize(resize(read_image(path), first), size)
        except ImageError as error:
            return error.reason
        except UserError as error:  # of a missing library
            return str(error)

    return read


def _rows(
    run: "Run", calibration: "Calibration | None", limit: float, names: Sequence[str], read: Sequence[Any]
) -> list[dict[str, Any]]:
    import numpy as np
    import torch

    from covid_xray.metrics.calibration import apply_temperature
    from covid_xray.runs.calibration import ood_score
    from covid_xray.runs.inference import answer_batch

    good = [image for image in read if not isinstance(image, str)]
    known, logits, features = calibration.features if calibration is not None else "", np.zeros((0, 2)), None
    if good:
        logits, features = answer_batch(run, torch.from_numpy(np.stack(good)).unsqueeze(1), bool(known))
    chances = apply_temperature(logits, calibration.temperature.value if calibration is not None else 1.0)
    strangeness = ood_score(logits, features, known)
    rows, at = [], 0
    for name, image in zip(names, read, strict=True):
        broken = isinstance(image, str)
        chance = None if broken else chances[at]
        row: dict[str, Any] = {"path": name, "prediction": None, "confidence": None, "ood_score": None, "flag": ""}
        row |= {f"p_{k}": None if chance is None else float(chance[i]) for i, k in enumerate(run.class_names)}
        row["error"] = image if broken else ""
        if chance is not None:
            best, own = int(chance.argmax()), float(strangeness[at])
            strange = calibration is not None and own > calibration.ood_limit
            flags = [word for word, yes in ((UNSURE, chance.max() < limit), (UNLIKE, strange)) if yes]
            row |= {"prediction": run.class_names[best], "confidence": float(chance[best]), "ood_score": own}
            row["flag"] = "; ".join(flags)
            at += 1
        rows.append(row)
    return rows
