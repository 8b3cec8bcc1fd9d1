"""Paths with special characters, typed as they are, in every setting that takes a path."""

import re
import shutil
from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import assume, given
from hypothesis import strategies as st
from tiny_run import InProcess, command, mistake, tiny_run

from covid_xray.commands._paths import literal_paths

__all__ = ["command", "tiny_run"]
# Typed, and the values that Hydra gets; {home} is the home folder.
ONE = {
    "run=outputs/x/sweep/seed=1": "outputs/x/sweep/seed=1",
    "run=seed=1,weights=null": "seed=1,weights=null",
    "run_dir=new/lr=1e-3": "new/lr=1e-3",
    "+weights=a=b.pt": "a=b.pt",
    "data.root=~/x rays": "{home}/x rays",
    "data.root=~/xrays": "{home}/xrays",
    'data.root="~/a=b"': "{home}/a=b",
    "data.root=~": "{home}",
    "input=my scans [old]": "my scans [old]",
    "output='a=b'": "a=b",
    "runs=[x/seed=0,x/seed=1]": ["x/seed=0", "x/seed=1"],
    "runs=[lr=1,seed=0,x/seed=1]": ["lr=1,seed=0", "x/seed=1"],
    "runs=[~/a,~/b=1]": ["{home}/a", "{home}/b=1"],
    "max_lr=[1e-6,4e-4]": [1e-6, 4e-4],
    "transforms=[{a: 1},{b: [1,2]}]": [{"a": 1}, {"b": [1, 2]}],
    "name=null": None,
    "seed=3": 3,
    "class_map={covid: covid-19, other: null}": {"covid": "covid-19", "other": None},
    "patient_regex='^(\\d+)_'": "^(\\d+)_",
}
SWEEPS = {
    "weights=a=1,b=2": ["a=1", "b=2"],
    "weights=lr=1,seed=0,b=2": ["lr=1,seed=0", "b=2"],
    "seed=0,1": [0, 1],
    "seed=range(0,3)": [0.0, 1.0, 2.0],
}


def parsed(word: str, sweep: bool = False) -> object:
    words = literal_paths([*(["-m"] if sweep else []), word])
    override = OverridesParser.create().parse_override(words[-1])
    if sweep:
        return list(override.sweep_iterator(transformer=lambda value: getattr(value, "text", value)))
    return override.value()


def in_home(expected: object, home: Path) -> object:
    if isinstance(expected, list):
        return [in_home(item, home) for item in expected]
    return expected.replace("{home}", str(home)) if isinstance(expected, str) else expected


@pytest.fixture
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("seed=1,weights=null", "lr=1,seed=0", "my scans [old]"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize("word", ONE)
def test_hydra_reads_the_path_that_was_typed(word: str, places: Path) -> None:
    assert parsed(word) == in_home(ONE[word], places)


@pytest.mark.parametrize("word", SWEEPS)
def test_values_of_a_sweep(word: str, places: Path) -> None:
    assert parsed(word, sweep=True) == SWEEPS[word]


def test_options_and_removed_settings_stay(places: Path) -> None:
    words = ["-m", "--config-dir", "a,b", "~logger", "~callbacks.x", "model=resnet50"]
    assert literal_paths(words) == words


@given(st.lists(st.text("ab1=, []~/.'\"", min_size=1, max_size=6), min_size=1, max_size=3))
def test_any_existing_folder_is_taken_as_it_is(parts: list[str]) -> None:
    path = "/".join(parts)
    assume(not re.fullmatch(r"[\w./-]*", path))  # Hydra reads others, such as numbers, as it does everywhere
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("os.path.lexists", lambda found: found == path)
        patch.setattr("os.path.expanduser", lambda text: text)
        assert parsed(f"run={path}") == path


@pytest.mark.parametrize(
    "line",
    [
        *("evaluate run={0}", "predict run={0} input=data output=o.csv", "export run={0}", "report sweep={0}"),
        *("compare runs=[{0},{0}]", "train weights={0} experiment=tiny", "train data=folder data.root={0}"),
        *("audit data=manifest data.manifest={0} output=o", "prepare dataset=folder source={0} output=o"),
    ],
)
def test_every_command_names_the_folder_that_is_missing(line: str, command: InProcess, workplace: Path) -> None:
    mistake(command(line.format("nowhere/x=1/seed=0")), "nowhere/x=1/seed=0")


def test_a_run_of_a_sweep_is_used_under_its_name(command: InProcess, tiny_run: Path, workplace: Path) -> None:
    run = workplace / "sweep/lr=1,seed=1"
    shutil.copytree(tiny_run, run, dirs_exist_ok=True)
    code, out, err = command("predict run=sweep/lr=1,seed=1 input=data output=sweep/lr=1,seed=1/p=q.csv overwrite=true")
    assert code == 0, out + err
    assert (run / "p=q.csv").read_text().count("\n") > 90
    code, out, err = command("train experiment=tiny weights=sweep/lr=1,seed=1 run_dir=sweep/seed=2 --cfg job")
    assert code == 0, out + err
    assert "run_dir: sweep/seed=2" in out
