"""Runs the real commands, from the real executable, on tiny data."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parent.parent
Command = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="session")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder to run commands in; phantoms drawn by one test are found by the next."""
    return tmp_path_factory.mktemp("workplace")


@pytest.fixture(scope="session")
def covid_xray(workplace: Path) -> Command:
    """Run ``covid-xray`` with arguments, in the workplace."""

    def run(*arguments: str, env: dict[str, str] | None = None, timeout: float = 300) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "COLUMNS": "200", **(env or {})}
        command = [sys.executable, "-m", "covid_xray", *arguments]
        return subprocess.run(
            command, cwd=workplace, env=environment, capture_output=True, text=True, timeout=timeout, check=False
        )

    return run
