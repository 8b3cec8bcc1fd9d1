"""Counts the public COVIDx lists, and scores a classifier that sees only the source of an image.

    python experiments/covidx/count.py --lists FOLDER

FOLDER holds ``train_COVIDx8B.txt`` and ``test_COVIDx8B.txt``, and so on (also gzipped), as in labels/ of
github.com/lindawangg/COVID-Net. No image is needed. The lists are not part of this project (AGPL-3.0); only counts are.
"""

import argparse
import gzip
import tempfile
from pathlib import Path
from typing import Any

import pandas as pd

from covid_xray.data.audit.report import AuditReport, audit_records
from covid_xray.data.manifest import read_manifest
from covid_xray.data.prepare import prepare
from covid_xray.errors import UserError
from covid_xray.metrics.intervals import Interval
from covid_xray.plots.classification import COLOURS, figure_png
from covid_xray.plots.figure import PlainFigure
from covid_xray.reporting.published import PUBLISHED, PublishedResult

HERE = Path(__file__).parent
VERSIONS = {"1": "", **{name: name for name in ("2", "3", "4", "5", "6", "7A", "7B", "8A", "8B", "9A", "9B")}}
REPEATED = "it is listed a second time"
COVID = ("covid-19", "positive")


def main() -> None:
    """Write ``results.csv`` and ``results.png``."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lists", type=Path, required=True, help="folder of the lists")
    parser.add_argument("--output", type=Path, default=HERE, help="folder of results.csv and results.png")
    arguments = parser.parse_args()
    table = count(arguments.lists)
    arguments.output.mkdir(parents=True, exist_ok=True)
    table.to_csv(arguments.output / "results.csv", index=False)
    (arguments.output / "results.png").write_bytes(draw(table))
    print(table.T.to_string())


def count(lists: Path) -> pd.DataFrame:
    """One row per list that is there: counts, shared patients, and the scores from source and from file type."""
    found = [(version, read_list(lists, name)) for version, name in VERSIONS.items()]
    rows = [row(version, *audit) for version, audit in found if audit is not None]
    if not rows:
        raise UserError(f"--lists={lists} contains no train_COVIDx*.txt with its test_COVIDx*.txt")
    return pd.DataFrame(rows)


def read_list(lists: Path, name: str) -> tuple[AuditReport, int] | None:
    """Audit of one version, and its number of lines that repeat an image; None if the version is not there.

    The same as `prepare dataset=covidx lists_only=true max_rejected=1` and `audit data.images=false`.
    """
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder)
        for split in ("train", "test"):
            files = [file for end in ("", ".gz") if (file := lists / f"{split}_COVIDx{name}.txt{end}").is_file()]
            if not files:
                return None
            content = files[0].read_bytes()
            (source / f"{split}.txt").write_bytes(gzip.decompress(content) if files[0].suffix == ".gz" else content)
        prepared = prepare("covidx", source, source / "prepared", lists_only=True, max_rejected=1)
        reasons = set(prepared.rejected["reason"])
        if reasons - {REPEATED}:
            raise UserError(
                f"list {name or 1}: a line is rejected because {min(reasons - {REPEATED})}; repair the list"
            )
        audit = audit_records(read_manifest(prepared.manifest, images=False), read=False)
        return audit, len(prepared.rejected)


def row(version: str, audit: AuditReport, repeated: int) -> dict[str, Any]:
    """Counts and scores of one list."""
    counts = audit.counts["by_split"]
    found: dict[str, Any] = {"list": version}
    for split in ("train", "test"):
        for label in ("covid-19", "normal", "pneumonia", "positive", "negative"):
            images = counts[split].get(label, {}).get("images", 0)
            found[f"{split} {label}"] = images or ""
    covid = next(label for label in counts["test"] if label in COVID)
    found["test patients of covid-19"] = counts["test"][covid]["patients"]
    found["patients in train and test"] = len(audit.patients_across_splits)
    found["repeated lines"] = repeated
    found["test images"] = sum(part["images"] for part in counts["test"].values())
    scores = {score["factor"]: score for score in audit.source_only}
    for factor in ("source", "file type"):
        score = scores.get(factor)
        if score is None:  # the list has one value only
            continue
        sensitivity = score["sensitivity"][covid]
        found |= {
            f"{factor}: correct": score["correct"],
            f"{factor}: accuracy": round(score["accuracy"]["value"], 4),
            f"{factor}: accuracy low": round(score["accuracy"]["low"], 4),
            f"{factor}: accuracy high": round(score["accuracy"]["high"], 4),
            f"{factor}: balanced accuracy": round(score["balanced_accuracy"], 4),
            f"{factor}: macro AUROC": round(score["macro_auroc"], 4),
            f"{factor}: AUROC covid-19": round(score["auroc"][covid], 4),
            f"{factor}: sensitivity covid-19": round(sensitivity["value"], 4),
            f"{factor}: sensitivity low": round(sensitivity["low"], 4),
            f"{factor}: sensitivity high": round(sensitivity["high"], 4),
        }
    return found


def draw(table: pd.DataFrame) -> bytes:
    """Accuracy and COVID-19 sensitivity of published results, beside those of the source alone, as PNG."""
    results = [result for result in PUBLISHED if result.test_list in set(table["list"])]
    figure = PlainFigure(figsize=(10, 1.2 + 0.36 * len(results)), layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    by_list = table.set_index("list")
    for axis, title in zip(panels, ("accuracy", "sensitivity covid-19"), strict=True):
        for y, result in enumerate(results):
            published, source = pair(result, by_list.loc[result.test_list], title)
            for shift, interval, colour in ((-0.14, published, COLOURS[0]), (0.14, source, COLOURS[1])):
                axis.hlines(y + shift, interval.low, interval.high, color=colour, linewidth=2)
                axis.plot(interval.value, y + shift, "o", color=colour, markersize=5)
        axis.set(xlim=(0, 1.02), xlabel=f"{title.replace('covid', 'COVID')}, with 95 % interval")
        axis.grid(axis="x", color="#e5e5e5", linewidth=0.6)
        axis.spines[["top", "right", "left"]].set_visible(False)
    panels[0].set_yticks(range(len(results)), [f"{result.name} (list {result.test_list})" for result in results])
    panels[0].invert_yaxis()
    for colour, label in ((COLOURS[0], "published"), (COLOURS[1], "the source alone, without the image")):
        panels[0].plot([], [], "o-", color=colour, label=label)
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside upper center", ncols=2, frameon=False)
    return figure_png(figure)


def pair(result: PublishedResult, counted: "pd.Series[Any]", metric: str) -> tuple[Interval, Interval]:
    """The published metric, and that of the source alone on the same test list."""
    short = metric.split(" ")[0]
    values = (float(counted[f"source: {name}"] or "nan") for name in (metric, f"{short} low", f"{short} high"))
    return result.accuracy() if short == "accuracy" else result.covid_sensitivity(), Interval(*values)


if __name__ == "__main__":
    main()
