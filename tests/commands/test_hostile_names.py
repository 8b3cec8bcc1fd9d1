"""Class names that form markup, formulas and HTML pass through every command, and are shown as they are."""

import csv
from html import escape
from pathlib import Path

import numpy as np
from tiny_run import InProcess, command

from covid_xray.data.images.read import write_png
from covid_xray.metrics.predictions import read_predictions

__all__ = ["command"]
CLASSES = ("[/x] [red]a", "$\\foo{$", "=1+1|<img src=x>")


def test_names_are_shown_as_they_are(command: InProcess, workplace: Path) -> None:
    data, random = workplace / "hostile", np.random.default_rng(0)
    data.mkdir()
    rows = ["path,label,patient_id,source"]
    for number in range(90):
        write_png(data / f"{number}.png", random.integers(0, 256, (48, 48), dtype=np.uint8))
        rows.append(f"{number}.png,{CLASSES[number % 3]},[/p{number}],[/s] $x$")
    (data / "manifest.csv").write_text("\n".join(rows))
    outputs = []
    for line in (
        "train experiment=tiny data=manifest data.manifest=hostile/manifest.csv "
        "run_dir=hostile-run datamodule.num_workers=0 ~schedule.phases.frozen_large ~schedule.phases.unfrozen_large",
        "evaluate run=hostile-run resamples=5",
        "predict run=hostile-run input=hostile output=hostile.csv",
    ):
        code, out, err = command(line)
        assert code == 0, out + err
        assert "\x1b" not in out + err
        outputs.append(out)
    assert all(name in outputs[0] for name in CLASSES)
    report = (workplace / "hostile-run/evaluation/test/report.html").read_text()
    assert "<img src=x" not in report
    assert escape(CLASSES[2]) in report
    with (workplace / "hostile.csv").open(newline="") as predicted:
        found = list(csv.DictReader(predicted))
    assert len(found) == 90
    assert {row["prediction"] for row in found} <= {*CLASSES[:2], f"'{CLASSES[2]}"}
    # What the program reads again is exact.
    file = workplace / "hostile-run/evaluation/test/predictions.csv"
    assert f"'{CLASSES[2]}" in file.read_text()
    assert set(read_predictions(file).class_names) == set(CLASSES)
