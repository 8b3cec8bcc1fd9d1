"""Runs the real commands, from the real executable, on tiny data."""

import gc
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

TESTS = Path(__file__).parent
SHARED = TESTS.parent.parent / "shared"
PATHS = {"PYTHONPATH": f"{TESTS.parent}{os.pathsep}{TESTS}"}
Command = Callable[..., subprocess.CompletedProcess[str]]


# The files that take longest, in this order: the two workers then end at about the same time.
LONGEST = (
    *("test_readme.py", "test_notebooks.py", "test_resume.py", "test_mistakes.py", "test_ensemble.py", "test_ddp.py"),
    *("test_evaluate.py", "test_predict_and_export.py", "test_audit.py", "test_damage.py", "test_bundle.py"),
    *("test_cli.py", "test_fit.py", "test_launchers.py", "test_advice.py", "test_train.py", "test_sweep.py"),
    *("test_embed_and_probe.py", "test_api.py", "test_covidx_study.py", "test_hostile_names.py", "test_manifest.py"),
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the longest files; other tests keep their order."""
    items.sort(key=lambda item: LONGEST.index(item.path.name) if item.path.name in LONGEST else len(LONGEST))


def pytest_collection_finish() -> None:
    """Leave the objects of the libraries out of garbage collection, which takes a tenth of the time of the tests."""
    gc.freeze()


def pytest_unconfigure() -> None:
    gc.unfreeze()  # or libraries in C++ report their objects as leaked


@pytest.fixture(scope="session")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder to run commands in; phantoms drawn by one test are found by the next."""
    return tmp_path_factory.mktemp("workplace")


@pytest.fixture(scope="session")
def session_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that all workers of this session share."""
    folder = tmp_path_factory.getbasetemp()
    return folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder


@pytest.fixture(scope="session")
def fork_server() -> Iterator[subprocess.Popen[str]]:
    """A process that runs commands in forks; see `fork_server`."""
    command = [sys.executable, str(TESTS / "fork_server.py")]
    server = subprocess.Popen(
        command, env={**os.environ, **PATHS}, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    yield server
    server.communicate()


@pytest.fixture(scope="session")
def covid_xray(workplace: Path, request: pytest.FixtureRequest) -> Command:
    """Run ``covid-xray`` with arguments, or Python code, in a folder, by default the workplace.

    The process is forked from one that has imported the libraries, unless ``env`` sets an option of Python.
    """

    def run(
        *arguments: str,
        env: dict[str, str] | None = None,
        timeout: float = 300,
        cwd: Path = workplace,
        code: str | None = None,
    ) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, *(("-c", code) if code else ("-m", "covid_xray")), *arguments]
        environment = {**os.environ, **PATHS, "COLUMNS": "200", **(env or {})}
        options = {name for name in env or {} if name.startswith("PYTHON")} - {"PYTHONPATH"}
        if options or not hasattr(os, "fork"):
            return subprocess.run(
                command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=timeout, check=False
            )
        server = request.getfixturevalue("fork_server")
        with tempfile.TemporaryDirectory() as folder:
            files = {name: str(Path(folder) / name) for name in ("out", "err")}
            asked = {"arguments": arguments, "code": code, "env": environment, "cwd": str(cwd), **files}
            server.stdin.write(f"{json.dumps(asked)}\n")
            server.stdin.flush()
            child = int(server.stdout.readline())
            alarm = threading.Timer(timeout, os.kill, (child, signal.SIGKILL))
            alarm.start()
            status = int(server.stdout.readline())
            alarm.cancel()
            out, err = (Path(file).read_text(encoding="utf-8") for file in files.values())
        return subprocess.CompletedProcess(command, status, out, err)

    return run


@pytest.fixture(scope="session")
def real_xrays() -> Path:
    """Manifest of the real X-rays, where they lie beside the repository."""
    manifest = SHARED / "data/chest-xrays/manifest.csv"
    if not manifest.is_file():
        pytest.skip("the real chest X-rays are not beside this checkout")
    return manifest


def load_state(file: Path) -> dict[str, Any]:
    """What `probe_callbacks.StateDump` wrote."""
    state: dict[str, Any] = torch.load(file, weights_only=True)
    return state


def differences(a: object, b: object, tolerance: float = 0.0, where: str = "") -> list[str]:
    """Places where two nested states differ: in any bit, or by more than a tolerance."""
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        same = torch.equal(a, b) if not tolerance else torch.allclose(a, b, rtol=tolerance, atol=tolerance)
        return [] if same else [where]
    if isinstance(a, dict) and isinstance(b, dict):
        if a.keys() != b.keys():
            return [f"{where}: keys"]
        return [place for key in a for place in differences(a[key], b[key], tolerance, f"{where}.{key}")]
    if isinstance(a, list | tuple) and isinstance(b, list | tuple):
        pairs = zip(a, b, strict=True)
        return [place for i, (x, y) in enumerate(pairs) for place in differences(x, y, tolerance, f"{where}[{i}]")]
    return [] if a == b else [f"{where}: {a} != {b}"]
