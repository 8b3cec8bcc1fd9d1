"""Every value of a run is in ``curves.csv`` once, and a mistake with a logger is one sentence."""

import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lightning.pytorch.loggers import CSVLogger

from covid_xray.commands._build import build_loggers
from covid_xray.errors import UserError
from covid_xray.training.curves import append_points, by_step, read_points, write_points
from covid_xray.training.curves_logger import CurvesLogger
from covid_xray.training.loggers import create_loggers, open_loggers, tensorboard_logger

NAMES = st.text(st.characters(exclude_categories=("C", "Z")), min_size=1, max_size=12)
POINTS = st.lists(st.tuples(st.integers(0, 1 << 40), NAMES, st.floats(allow_nan=False)), max_size=8)


@settings(max_examples=40)
@given(written=POINTS, appended=POINTS, cut=st.integers(min_value=0, max_value=40))
def test_points_come_back_to_the_last_bit(
    written: list[tuple[int, str, float]],
    appended: list[tuple[int, str, float]],
    cut: int,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    file = tmp_path_factory.mktemp("curves") / "curves.csv"
    write_points(file, written)
    begin = file.stat().st_size
    append_points(file, appended)
    assert read_points(file) == written + appended
    # A kill while a row is written leaves complete rows and a part of one.
    content = file.read_bytes()[: max(begin, file.stat().st_size - cut)]
    file.write_bytes(content)
    kept = content[begin:].count(b"\n")
    assert read_points(file) == written + appended[:kept]


@pytest.mark.parametrize("content", ["a,b,c\n1,x,2\n", "step,metric,value\n1,x\n", "step,metric,value\n1,x,y\n"])
def test_damaged_curves(tmp_path: Path, content: str) -> None:
    file = tmp_path / "curves.csv"
    file.write_text(content)
    with pytest.raises(UserError, match=r"curves\.csv is damaged \(row \d is not step, metric, value\); restore"):
        read_points(file)


def test_a_step_that_is_logged_again_is_there_once(tmp_path: Path) -> None:
    file = tmp_path / "curves.csv"
    first = CurvesLogger(file)
    assert first.begin(0) == {}
    for step in range(4):
        first.log_metrics({"loss": 1.0 + step, "epoch": 0}, step)
        first.log_metrics({"val": 0.1, "epoch": 0}, step)  # Lightning adds the epoch to every call
    first.write()
    second = CurvesLogger(file)
    assert second.begin(2) == {step: {"loss": 1.0 + step, "epoch": 0, "val": 0.1} for step in (0, 1)}
    second.log_metrics({"loss": 9.0}, 1)
    second.log_metrics({"loss": 3.0}, 2)
    second.write()
    assert [value["loss"] for value in by_step(read_points(file)).values()] == [1.0, 2.0, 3.0]


def test_loggers_get_what_a_kill_has_taken_from_them(tmp_path: Path) -> None:
    def loggers() -> list[Any]:
        return create_loggers([tensorboard_logger, lambda save_dir: CSVLogger(save_dir, name="", version="")], tmp_path)

    before: dict[int, dict[str, float]] = {step: {"loss": float(step)} for step in range(5)}
    for logger in loggers():
        for step in (0, 1, 2, 7):  # 7 is after the checkpoint, from which the next session continues
            logger.log_metrics({"loss": float(step)}, step)
        logger.save()
        logger.finalize("success")
    board, table = loggers()
    open_loggers([board, table], "0", "run", first=5, before=before)
    for logger in (board, table):
        logger.finalize("success")
    rows = (tmp_path / "metrics.csv").read_text().split()
    assert rows == ["loss,step", *(f"{float(step)},{step}" for step in range(5))]
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = []
    for file in sorted(tmp_path.glob("events.*")):
        events = EventAccumulator(str(file))
        events.Reload()
        found += [event.step for event in events.Scalars("loss")] if "loss" in events.Tags()["scalars"] else []
    assert sorted(step for step in found if step < 5) == list(range(5))


@pytest.mark.parametrize("name", ["wandb", "mlflow"])
def test_missing_package(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    module = f"covid_xray.training.{name}_logger"
    monkeypatch.delitem(sys.modules, module, raising=False)
    for loaded in [loaded for loaded in sys.modules if loaded.partition(".")[0] == name]:
        monkeypatch.setitem(sys.modules, loaded, None)
    monkeypatch.setitem(sys.modules, name, None)
    config = {"logger": {name: {"_target_": f"{module}.{name.capitalize()}RunLogger"}}}
    with pytest.raises(UserError, match=rf"logger={name} needs {name}: pip install 'covid-xray\[{name}\]'"):
        build_loggers(config)


def test_mlflow_accepts_every_name() -> None:
    pytest.importorskip("mlflow", reason="mlflow is not installed (extra mlflow)")
    from mlflow.utils import validation

    from covid_xray.training.mlflow_logger import mlflow_name

    for name in ("val/recall/covid-19", "val/recall/no finding (normal)", "val/recall/肺炎", "test/recall/a=b,c"):
        check: Any = validation._validate_metric_name
        check(mlflow_name(name))
    assert mlflow_name("val/loss") == "val/loss"


def test_wandb_without_an_account_is_a_sentence_and_no_question(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("wandb", reason="wandb is not installed (extra wandb)")
    from covid_xray.training.wandb_logger import WandbRunLogger

    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.delenv("WANDB_MODE", raising=False)
    stdin = sys.stdin
    with pytest.raises(UserError, match=r"logger=wandb: .*use `wandb login` first, or add logger\.wandb\.offline=true"):
        open_loggers([WandbRunLogger(str(tmp_path))], "0123456789abcdef", "run")
    assert sys.stdin is stdin
