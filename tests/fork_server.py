"""Runs commands in forks of one process that has imported the libraries, which is half of the time of a tiny run.

A fork is a process of its own, as that of ``python -m covid_xray``: it has its own arguments, environment, folder and
output, and can be killed. It reads a request per line from its input, and answers with the process id and the exit
status.
"""

import contextlib
import importlib
import json
import os
import runpy
import sys
from pathlib import Path
from typing import Any

import covid_xray

PRELOADED = ("albumentations", "hydra.main", "lightning", "tensorboard.compat.proto", "covid_xray.runs.fit")


def serve() -> dict[str, Any] | None:
    """Answer requests; returns the request in a fork, and None at the end of the input."""
    for line in sys.stdin:
        request: dict[str, Any] = json.loads(line)
        if (child := os.fork()) == 0:
            return request
        print(child, flush=True)
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)
    return None


def run(request: dict[str, Any]) -> None:
    """Become the command of a request."""
    nothing = os.open(os.devnull, os.O_RDONLY)
    streams = [nothing, *(os.open(request[name], os.O_WRONLY | os.O_CREAT | os.O_TRUNC) for name in ("out", "err"))]
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
    os.environ.clear()
    os.environ.update(request["env"])
    os.chdir(request["cwd"])
    sys.argv = ["covid_xray", *request["arguments"]]
    runpy.run_module("covid_xray", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    commands = (Path(covid_xray.__file__).parent / "commands").glob("[a-z]*.py")
    for module in (*PRELOADED, *(f"covid_xray.commands.{file.stem}" for file in commands)):
        with contextlib.suppress(ImportError):  # an extra that is not installed
            importlib.import_module(module)
    if (request := serve()) is not None:
        run(request)
