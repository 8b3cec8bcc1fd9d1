"""``covid-xray COMMAND [OVERRIDE ...]``: find the command, run it with Hydra, and print mistakes in one sentence.

A command is a file in ``covid_xray/commands`` with a docstring, whose first line is the help, and a function
``run(cfg)``; its settings are in a file of the same name in ``conf``. This module does not import torch, so that help
and errors in an override appear at once.
"""

import ast
import contextlib
import itertools
import os
import re
import signal
import sys
import threading
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any, NoReturn

from covid_xray.errors import UserError, printable

PACKAGE = Path(__file__).parent
# How Hydra's messages begin when it cannot parse a value.
_GRAMMAR = re.compile(
    "mismatched input|extraneous input|no viable alternative|token recognition|LexerNoViableAlt|Ambiguous value"
    "|Error parsing override"
)
_QUOTES = (
    "; put a path or name with special characters, all but letters, digits and ._-/, in two pairs of quotes: "
    "'data.root=\"a=b, c\"'"
)
# How lines of advice in Hydra's messages begin.
_HINT = re.compile(r"(?:\d\. )?(?=(?:To|Use|Either|Or|Did|See|Check) )")
# Options of Hydra that take a value.
_VALUE_OPTIONS = (
    "--cfg",
    "-c",
    "--package",
    "-p",
    "--config-dir",
    "-cd",
    "--config-name",
    "-cn",
    "--config-path",
    "-cp",
)
NOTICE = "Research software, not a medical device: never use its output for diagnosis."


def config_dir() -> Path:
    """Folder of the YAML files: inside the package if installed from a wheel, beside it in a checkout."""
    inside = PACKAGE / "conf"
    return inside if inside.is_dir() else PACKAGE.parent / "conf"


def commands() -> dict[str, str]:
    """Help line by command, read from the files without importing them."""
    found = {}
    for file in sorted((PACKAGE / "commands").glob("[a-z]*.py")):
        found[file.stem.replace("_", "-")] = _docstring(file).split("\n")[0]
    return found


def _docstring(file: Path) -> str:
    """Docstring of a module that is not imported."""
    return ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or ""


def _options(group: str) -> str:
    """Names of the options of a config group."""
    return ", ".join(sorted(file.stem for file in (config_dir() / group).glob("*.yaml")))


def main() -> None:
    """Entry point of the ``covid-xray`` executable."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, _terminate)  # training has its own handler, which saves first
    threading.excepthook = _thread_failed
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
    elif {"-h", "--help"} & set(arguments):
        print(_command_help(arguments[0]))
    else:
        try:
            Path.cwd()
        except FileNotFoundError:
            _fail("the current folder does not exist any more: change to another one (cd)")
        _run(arguments[0], arguments[1:])


def _thread_failed(failure: Any) -> None:
    """Print a thread's traceback, unless the main thread raises the exception too, as TensorBoard's writer does."""
    if not isinstance(failure.exc_value, OSError):
        threading.__excepthook__(failure)


def _terminate(signum: int, frame: Any) -> NoReturn:
    """Exit as after an exception, so that locks are given back and half-written files are removed."""
    raise SystemExit(128 + signum)


def _help() -> str:
    rows = [f"  {name:<10} {text}" for name, text in commands().items()]
    return "\n".join(
        [
            "usage: covid-xray COMMAND [OVERRIDE ...]",
            "",
            *rows,
            "",
            "covid-xray COMMAND --help     settings of a command",
            "covid-xray COMMAND --cfg job  the configuration with the overrides",
            'eval "$(covid-xray -sc install=bash)"   completion with the tab key',
            "",
            NOTICE,
        ]
    )


def _config_file(command: str) -> Path:
    """Settings of a command; one with its own folder has no config groups, so its settings may have their names."""
    name = command.replace("-", "_")
    separate = config_dir() / name
    return (separate if separate.is_dir() else config_dir()) / f"{name}.yaml"


def _command_help(command: str) -> str:
    """What a command does, its settings and its choices, with the comments of its YAML file."""
    blocks = _config_file(command).read_text(encoding="utf-8").split("\n\n")
    settings = [block for block in blocks if not re.match("(# .*\n)*(hydra|defaults):", block)]
    choices = re.findall(r"^  - (\w+): (\w+) *(#.*)?$", blocks[0], re.MULTILINE)
    inherited = " All settings of `covid-xray train --help`, too." if re.search("^  - train$", blocks[0], re.M) else ""
    lines = [
        f"usage: covid-xray {command} [KEY=VALUE ...]",
        "",
        _docstring(PACKAGE / "commands" / f"{command.replace('-', '_')}.py"),
        "",
        f"Settings, as KEY=VALUE, with their defaults; ??? must be given.{inherited}",
        "",
        "\n\n".join(settings).strip(),
    ]
    if choices:
        lines += ["", "Choices, as GROUP=NAME, and their defaults:", ""]
        for group, default, comment in choices:
            lines += [f"{f'{group}={default}':<26} {comment}".rstrip(), f"    {_options(group)}"]
    return "\n".join(
        [*lines, "", f"covid-xray {command} --cfg job   shows the configuration, with that of the choices"]
    )


def _run(command: str, overrides: list[str]) -> None:
    from hydra import main as hydra_main
    from hydra._internal.hydra import Hydra
    from hydra.core.hydra_config import HydraConfig
    from hydra.errors import HydraException
    from omegaconf import DictConfig
    from omegaconf.errors import OmegaConfBaseException

    sweeps = import_module("covid_xray.commands.sweep.jobs")
    literal_paths = import_module("covid_xray.commands._paths").literal_paths
    files = import_module("covid_xray.files")
    mistakes = (UserError, HydraException, OmegaConfBaseException)
    whole_argv = list(sys.argv)
    name = command.replace("-", "_")
    # Without this variable, Hydra prints a short traceback and exits with 1; with it, Hydra raises the exception here.
    show_tracebacks = os.environ.get("HYDRA_FULL_ERROR") == "1"
    os.environ["HYDRA_FULL_ERROR"] = "1"

    composed = False

    def task(cfg: DictConfig) -> Any:
        nonlocal composed
        composed = True
        # Lightning starts the other DDP processes with sys.argv, which must contain the command.
        sys.argv[:] = whole_argv
        try:
            sweeps.refuse_overlay_without_sweep()
            with files.resource_errors(Path.cwd()):
                run = import_module(f"covid_xray.commands.{name}").run
                return sweeps.run_job(run, cfg, _sentence) if sweeps.is_sweep() else run(cfg)
        except mistakes as error:
            if show_tracebacks:
                raise
            made = Path(HydraConfig.get().runtime.output_dir)
            if made != Path.cwd():
                with contextlib.suppress(OSError):
                    made.rmdir()  # the run folder that Hydra made, if still empty
            _fail(_sentence(error))

    file = _config_file(command)
    words = literal_paths(_switches(overrides, file))
    sys.argv[:] = [whole_argv[0], *_options_first(words)]
    if not any("hydra.mode" in word for word in words):
        # Hydra composes the configuration a second time, only to read this setting.
        Hydra.get_mode = lambda *arguments, **names: None  # type: ignore[method-assign]
    application: Callable[[], Any] = hydra_main(version_base="1.3", config_path=str(file.parent), config_name=name)(
        task
    )
    try:
        application()
        if failed := sweeps.write_sweep_table():
            _fail_jobs(failed)
    except SystemExit as stop:
        if not isinstance(stop.code, str):  # a message from SweepCallback
            raise
        _fail(stop.code)
    except Exception as raised:
        error = raised
        if isinstance(raised, OSError) and not (composed or isinstance(raised, mistakes)):  # no run folder can be made
            error = files.write_failure(Path(str(raised.filename or ".")), raised)
        # Some exceptions follow the jobs, such as Optuna's if every trial failed; the table is still written.
        failed = 0 if isinstance(error, mistakes) else sweeps.write_sweep_table()
        # While Hydra composes the configuration, it raises a plain ValueError for some mistakes.
        if show_tracebacks or not (failed or isinstance(error, mistakes if composed else (*mistakes, ValueError))):
            raise
        if failed:
            _fail_jobs(failed)
        _fail(_sentence(error))
    finally:
        if not show_tracebacks:
            os.environ.pop("HYDRA_FULL_ERROR", None)


def _switches(words: list[str], file: Path) -> list[str]:
    """Write ``--json`` as ``json=true``, for every setting of a command's own file that is true or false."""
    names = re.findall(r"^(\w+): (?:true|false)\b", file.read_text(encoding="utf-8"), re.MULTILINE)
    switches = {f"--{name.replace('_', '-')}": f"{name}=true" for name in names}
    return [switches.get(word, word) for word in words]


def _options_first(words: list[str]) -> list[str]:
    """Hydra's options, then the overrides: Hydra takes no override after an option that follows other overrides."""
    options: list[str] = []
    overrides: list[str] = []
    rest = iter(words)
    for word in rest:
        if word in _VALUE_OPTIONS:
            options += [word, *itertools.islice(rest, 1)]
        else:
            (options if word.startswith("-") else overrides).append(word)
    return options + overrides


def _sentence(error: BaseException) -> str:
    """What went wrong, in one line, with all advice that Hydra gives."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, UserError):
        cause = cause.__cause__
    if cause is not None:
        # An error from a loader worker contains the worker's traceback.
        return str(cause).strip().rsplit("UserError: ", 1)[-1]
    text = (str(error).strip() or str(error.__cause__ or "")).partition("Config search path")[0]
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    keys = [line.partition(": ")[2] for line in lines if line.startswith("full_key: ")]
    lines = [line for line in lines if not re.match("full_key|object_type|reference_type", line)]
    if not lines:
        return type(error).__name__
    if len(lines) > 2 and lines[1].startswith("Available options"):
        return f"{lines[0].rstrip('.')}; use one of {', '.join(lines[2:])}"
    sentence = lines[0]
    for line in lines[1:6]:  # Hydra's messages have up to six
        if hint := _HINT.match(line):
            advice = line[hint.end() :].rstrip(".")
            sentence = f"{sentence.rstrip('.')}; {advice[0].lower()}{advice[1:]}"
        else:
            sentence += f" {line}"
    if found := re.search(r"Could not load '(\w+)/", sentence):  # one of a list, for which Hydra names no options
        sentence = f"{sentence.rstrip('.')}; use {_options(found[1])}"
    if _GRAMMAR.match(sentence):
        sentence = re.sub(r" expecting \{.*\}", "", sentence) + _QUOTES
    return sentence if not keys or keys[0] in sentence else f"{keys[0]}: {sentence}"


def _fail(sentence: str) -> NoReturn:
    print(f"covid-xray: {printable(sentence)}", file=sys.stderr)
    raise SystemExit(2)


def _fail_jobs(failed: int) -> NoReturn:
    _fail(f"{failed} of the sweep's jobs failed; the same command runs them again and skips finished jobs")


def _complete(arguments: list[str]) -> None:
    """Answer Hydra's shell completion, which expects no command: remove the command from the line."""
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
