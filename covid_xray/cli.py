"""``covid-xray COMMAND [OVERRIDE ...]``: finds the command, hands the rest to Hydra, turns mistakes into sentences.

A command is one file in ``covid_xray/commands`` with a docstring (its first line is the help) and a function
``run(cfg)``, and one file of the same name in ``conf``. Nothing here imports torch: help and errors in an override
answer at once.
"""

import ast
import contextlib
import os
import re
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any, NoReturn

from covid_xray.errors import UserError

PACKAGE = Path(__file__).parent
# What Hydra says of a value that it takes for something else than text.
_GRAMMAR = re.compile(
    "mismatched input|extraneous input|no viable alternative|token recognition|LexerNoViableAlt|Ambiguous value"
    "|Error parsing override"
)
_QUOTES = (
    "; a path or name with other signs than letters, digits and ._-/ is typed in two pairs of quotes: "
    "'data.root=\"a=b, c\"'"
)
NOTICE = "Research software, not a medical device: never use its output for diagnosis."


def config_dir() -> Path:
    """Folder of the YAML files: inside an installed wheel, beside the package in a checkout."""
    inside = PACKAGE / "conf"
    return inside if inside.is_dir() else PACKAGE.parent / "conf"


def commands() -> dict[str, str]:
    """Each command's name with the first line of its file's docstring, found without importing it."""
    found = {}
    for file in sorted((PACKAGE / "commands").glob("[a-z]*.py")):
        docstring = ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or ""
        found[file.stem.replace("_", "-")] = docstring.split("\n")[0]
    return found


def main() -> None:
    """Entry point of the ``covid-xray`` executable."""
    arguments = sys.argv[1:]
    if arguments and re.match(r"(-sc|--shell-completion)$", arguments[0]):
        _complete(arguments)
    elif not arguments or arguments[0] in ("-h", "--help", "help"):
        print(_help())
    elif arguments[0] == "--version":
        from importlib.metadata import version

        print(f"covid-xray {version('covid-xray')}")
    elif arguments[0] not in commands():
        _fail(f"{arguments[0]!r} is no command; use one of {', '.join(commands())}")
    else:
        _run(arguments[0], arguments[1:])


def _help() -> str:
    rows = [f"  {name:<10} {text}" for name, text in commands().items()]
    return "\n".join(
        [
            "usage: covid-xray COMMAND [OVERRIDE ...]",
            "",
            *rows,
            "",
            "covid-xray COMMAND --help     settings of a command",
            "covid-xray COMMAND --cfg job  the configuration that the overrides make",
            'eval "$(covid-xray -sc install=bash)"   completion with the tab key',
            "",
            NOTICE,
        ]
    )


def _run(command: str, overrides: list[str]) -> None:
    from hydra import main as hydra_main
    from hydra.core.hydra_config import HydraConfig
    from hydra.errors import HydraException
    from omegaconf import DictConfig
    from omegaconf.errors import OmegaConfBaseException

    sweeps = import_module("covid_xray.commands.sweep_jobs")
    mistakes = (UserError, HydraException, OmegaConfBaseException)
    whole_argv = list(sys.argv)
    name = command.replace("-", "_")
    # Hydra shows a cut traceback and exits with 1; with this it hands the exception on, to be said in one sentence.
    show_tracebacks = os.environ.get("HYDRA_FULL_ERROR") == "1"
    os.environ["HYDRA_FULL_ERROR"] = "1"

    composed = False

    def task(cfg: DictConfig) -> Any:
        nonlocal composed
        composed = True
        # Lightning starts its other DDP processes from sys.argv, so they must find the command's name there.
        sys.argv[:] = whole_argv
        try:
            sweeps.refuse_overlay_without_sweep()
            run = import_module(f"covid_xray.commands.{name}").run
            return sweeps.run_job(run, cfg, _sentence) if sweeps.is_sweep() else run(cfg)
        except mistakes as error:
            if show_tracebacks:
                raise
            with contextlib.suppress(OSError):
                Path(HydraConfig.get().runtime.output_dir).rmdir()  # the run folder that Hydra made, if still empty
            _fail(_sentence(error))

    sys.argv[:] = [whole_argv[0], *overrides]
    # A file in a folder of its own sees no config groups: so `report` can have a setting `sweep`, as there is a group.
    own = config_dir() / name
    folder = str(own if own.is_dir() else config_dir())
    application: Callable[[], Any] = hydra_main(version_base="1.3", config_path=folder, config_name=name)(task)
    try:
        application()
        if failed := sweeps.write_sweep_table():
            _fail_jobs(failed)
    except SystemExit as stop:
        if not isinstance(stop.code, str):  # a sentence: see SweepCallback
            raise
        _fail(stop.code)
    except Exception as error:
        # An exception that came after jobs were run, such as a study's in which every trial failed, loses no table.
        failed = 0 if isinstance(error, mistakes) else sweeps.write_sweep_table()
        # While it composes, Hydra tells some mistakes as a plain ValueError.
        if show_tracebacks or not (failed or isinstance(error, mistakes if composed else (*mistakes, ValueError))):
            raise
        if failed:
            _fail_jobs(failed)
        _fail(_sentence(error))
    finally:
        if not show_tracebacks:
            os.environ.pop("HYDRA_FULL_ERROR", None)


def _sentence(error: BaseException) -> str:
    """What went wrong, in one line."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, UserError):
        cause = cause.__cause__
    if cause is not None:
        # One raised in a loader worker comes with the worker's traceback around it.
        return str(cause).strip().rsplit("UserError: ", 1)[-1]
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    kept = [line for line in lines if not re.match(r"(full_key|object_type|reference_type|Config search path)", line)]
    if len(kept) > 2 and kept[1].startswith("Available options"):
        return f"{kept[0]}; use one of {', '.join(kept[2:])}"
    sentence = " ".join(kept[:2]) if kept else type(error).__name__
    return sentence + _QUOTES if _GRAMMAR.match(sentence) else sentence


def _fail(sentence: str) -> NoReturn:
    print(f"covid-xray: {sentence}", file=sys.stderr)
    raise SystemExit(2)


def _fail_jobs(failed: int) -> NoReturn:
    _fail(f"{failed} of the sweep's jobs failed; the same command tries them again, and no job that is finished")


def _complete(arguments: list[str]) -> None:
    """Answer Hydra's shell completion, which knows executables but not commands: cut the command out of the line."""
    words = os.environ.get("COMP_LINE", "").split(" ")
    names = list(commands())
    if "query" in "".join(arguments) and (len(words) < 3 or words[1] not in names):
        print("\n".join(name for name in names if name.startswith(words[1] if len(words) > 1 else "")))
        return
    command = words[1] if len(words) > 1 and words[1] in names else "train"
    if len(words) > 1:
        os.environ["COMP_LINE"] = " ".join([words[0], *words[2:]])
    _run(command, arguments)


if __name__ == "__main__":
    main()
