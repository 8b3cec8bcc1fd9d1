"""Measures the effect of each change that makes training fast: ``covid-xray train`` with one change undone at a time.

``python experiments/speed/changes.py`` writes changes.csv beside this file.
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from bench import HERE, hardware, images_per_second, make_images, scenarios, started, take_turns, write_table

UNDONE = {
    "as it is": (),
    "as it is, again": (),
    "float32 instead of bfloat16": ("trainer.precision=32-true",),
    "contiguous instead of channels-last": ("+callbacks.form._target_=contenders.Contiguous",),
    "optimiser step not fused": ("optimizer.fused=false",),
    "no cache: every image decoded anew": ("datamodule.cache=off",),
    "no loader processes": ("datamodule.num_workers=0",),
    "nothing logged": ("logger=none",),
}


def main() -> None:
    """Measure all variants in turn, in the unfrozen and the frozen phase at 224 pixels."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=4)
    options = parser.parse_args()
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as name:
        for scenario in scenarios(make_images(Path(name) / "images"))[:2]:
            command = [sys.executable, str(HERE / "contenders.py"), "train", json.dumps(asdict(scenario))]
            commands = {change: [*command, *settings] for change, settings in UNDONE.items()}
            requests = dict.fromkeys(UNDONE, ("seconds", options.seconds))
            with started(commands, Path(name) / scenario.name, options.seconds) as running:
                rates = images_per_second(take_turns(running, options.repeats, requests))
            rows += [
                {
                    "scenario": scenario.name,
                    "change": change,
                    "images_per_second": round(statistics.median(each[change] for each in rates), 2),
                    "of_as_it_is": round(statistics.median(each[change] / each["as it is"] for each in rates), 3),
                    "repeats": options.repeats,
                    "hardware": hardware(),
                    "torch": torch.__version__,
                }
                for change in UNDONE
            ]
    write_table(HERE / "changes.csv", rows)
    print((HERE / "changes.csv").read_text(encoding="utf-8"), os.getloadavg())


if __name__ == "__main__":
    main()
