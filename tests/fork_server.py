"""Runs commands in forks of one process that has imported the libraries, which is half of the time of a tiny run.

A fork is a process of its own, as that of ``python -m covid_xray``: it has its own arguments, environment, folder and
output, and can be killed. It reads a request per line from its input, and answers with the process id and the exit
status.
"""

import atexit
import contextlib
import gc
import importlib
import json
import os
import runpy
import sys
import threading
import traceback
from pathlib import Path
from typing import Any

import covid_xray

PRELOADED = (
    *("albumentations", "hydra.main", "lightning", "sklearn.model_selection", "torch.utils.tensorboard"),
    *("tensorboard.backend.event_processing.event_file_loader", "covid_xray.runs.fit"),
)


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


def run(request: dict[str, Any]) -> int:
    """Run the command of a request in this process; returns its exit status."""
    nothing = os.open(os.devnull, os.O_RDONLY)
    streams = [nothing, *(os.open(request[name], os.O_WRONLY | os.O_CREAT | os.O_TRUNC) for name in ("out", "err"))]
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
    os.environ.clear()
    os.environ.update(request["env"])
    os.chdir(request["cwd"])
    folders = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    sys.path[:0] = [folder for folder in folders if folder not in sys.path]
    sys.argv = ["covid_xray", *request["arguments"]]
    try:
        if request["code"]:
            exec(compile(request["code"], "<code>", "exec"), {"__name__": "__main__"})
        else:
            runpy.run_module("covid_xray", run_name="__main__", alter_sys=True)
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


if __name__ == "__main__":
    commands = (Path(covid_xray.__file__).parent / "commands").glob("[a-z]*.py")
    for module in (*PRELOADED, *(f"covid_xray.commands.{file.stem}" for file in commands)):
        with contextlib.suppress(ImportError):  # an extra that is not installed
            importlib.import_module(module)
    gc.freeze()  # or the garbage collector of every fork writes to, and so copies, all memory
    if (request := serve()) is not None:
        code = run(request)
        threading._shutdown()  # type: ignore[attr-defined]
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)  # without the second that Python takes to remove all modules
