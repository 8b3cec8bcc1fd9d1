"""`covid-xray doctor`: lines, JSON, exit codes; switches of every command."""

import json
import urllib.request
from pathlib import Path

import pytest
import torch
from tiny_run import InProcess, command, mistake

__all__ = ["command"]
NAMES = ["Python", "packages", "extras", "Hydra plugins", "accelerator", "bfloat16", "cores", "memory"]
NAMES += ["shared memory", "cache", "outputs", "file locks", "weights"]


def no_network(*_: object, **__: object) -> None:
    raise OSError("no network")


def test_lines(command: InProcess, workplace: Path) -> None:
    before = set(workplace.iterdir())
    code, out, err = command("doctor experiment=tiny trainer.accelerator=cpu")
    assert (code, err) == (0, "")
    assert [line[6:20].strip() for line in out.splitlines()] == NAMES
    assert {line[:6].strip() for line in out.splitlines()} <= {"ok", "note"}
    assert set(workplace.iterdir()) == before, "it leaves nothing behind"


@pytest.mark.parametrize("switch", ["--json", "json=true"])
def test_json(command: InProcess, switch: str) -> None:
    code, out, _ = command(f"doctor experiment=tiny trainer.accelerator=cpu {switch}")
    found = json.loads(out)
    assert (code, found["ok"], [check["name"] for check in found["checks"]]) == (0, True, NAMES)


def test_where_training_would_fail(command: InProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(urllib.request, "urlopen", no_network)
    code, out, err = command("doctor datamodule.cache=/dev/null/cache")
    assert code == 2
    assert "fail  weights        " in out
    assert "resnet50" in out
    assert "fail  cache          /dev/null/cache cannot be written" in out
    assert err == "covid-xray: a training with these settings would fail here, because of: cache, weights\n"
    code, out, _ = command("doctor --json")
    assert (code, json.loads(out)["ok"]) == (2, False)


def test_mistakes(command: InProcess) -> None:
    mistake(command("doctor json=perhaps"), "json must be true or false")
    mistake(command("doctor model.architecture=resnet51"), "resnet51")


def test_every_switch_of_every_command(command: InProcess) -> None:
    code, out, _ = command("predict --overwrite --trust --cfg job")
    assert code == 0
    assert "overwrite: true" in out
    assert "trust: true" in out
    code, out, _ = command("train --allow-leakage --deterministic --cfg job")
    assert "allow_leakage: true" in out
    assert "deterministic: true" in out
    code, _, err = command("train --no-such-switch")
    assert code == 2
    assert "--no-such-switch" in err
