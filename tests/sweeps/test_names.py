"""Names of run folders."""

from pathlib import Path

import pytest

from covid_xray.sweeps.names import better, run_name


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        (["seed=1", "experiment=tiny"], "seed=1"),
        (
            ["schedule.phases.unfrozen_small.max_lr=[1e-6,4e-4]", "split.fold=2"],
            "unfrozen_small.max_lr=1e-6_4e-4,split.fold=2",
        ),
        (["+model.depth=3"], "model.depth=3"),
        (["experiment=tiny"], "default"),
    ],
)
def test_names_of_run_folders(lines: list[str], expected: str) -> None:
    assert run_name(lines, ["experiment"]) == expected
    assert run_name(reversed(lines), ["experiment"]) == expected


@pytest.mark.parametrize("value", ["/data/x rays", "../up", "a/b", "'^(\\d+)_'", "~x", "x" * 400, "é/ü", "."])
def test_any_override_gives_its_own_folder(tmp_path: Path, value: str) -> None:
    name, other = run_name([f"data.root={value}"]), run_name([f"data.root={value}/"])
    assert name != other
    (tmp_path / name).mkdir()
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_long_paths_come_after_what_varies() -> None:
    paths = [f"data.manifest={'folder/' * 20}manifest.csv", "weights=weights/of/somebody/resnet50.safetensors"]
    names = [run_name([*paths, f"seed={seed}"]) for seed in (0, 1)]
    assert [name.split(",")[0] for name in names] == ["seed=0", "seed=1"]
    assert all(len(name) < 200 for name in names)


def test_direction_of_a_metric() -> None:
    assert better("val/loss") == "minimize"
    assert better("val/recall/loss-like") == "maximize"
