"""Locks, cache, loader and training without what Windows and macOS lack, and with each way to start a process."""

import ast
import contextlib
import errno
import multiprocessing
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path
from types import ModuleType

import pytest
import torch
from conftest import TESTS, Command, differences
from tiny_run import tiny_run

import covid_xray as cx
from covid_xray.data.datamodule import XrayDataModule
from covid_xray.files import lock, read_at, write_at

__all__ = ["tiny_run"]
PACKAGE = TESTS.parent / "covid_xray"
MODULES = {"fcntl", "grp", "pwd", "resource", "termios", "pty", "msvcrt", "winreg"}
FUNCTIONS = {
    *("fork", "forkpty", "getuid", "geteuid", "killpg", "nice", "posix_fallocate", "pread", "pwrite", "statvfs"),
    *("sched_getaffinity", "sysconf", "uname", "alarm", "SIGALRM", "SIGKILL", "SIGUSR1", "SIGHUP"),
}
ON_POSIX = pytest.mark.skipif(os.name != "posix", reason="this system has nothing to hide")
SYSTEMS = [False, pytest.param(True, marks=ON_POSIX)]
# Holds a lock until its input is closed.
HOLD = """
import sys
from pathlib import Path
from covid_xray.files import lock
held = lock(Path(sys.argv[1]))
print("free" if held else "taken", flush=True)
sys.stdin.read()
"""


def environment(hidden: bool) -> dict[str, str]:
    """Variables of a process; without what Windows lacks if ``hidden``."""
    paths = [str(TESTS / "without_posix")] if hidden else []
    return {**os.environ, "PYTHONPATH": os.pathsep.join([*paths, str(TESTS.parent)])}


@contextlib.contextmanager
def holder(file: Path, hidden: bool) -> Iterator[tuple[str, "subprocess.Popen[str]"]]:
    """A process that tries to lock a file and keeps the lock until its input ends; what it prints."""
    command = [sys.executable, "-c", HOLD, str(file)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, env=environment(hidden), text=True, **pipes) as process:  # type: ignore[call-overload]
        yield process.stdout.readline().strip(), process


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_nothing_of_one_system_is_used_unguarded(path: Path) -> None:
    source = path.read_text(encoding="utf-8")
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = {alias.name for alias in node.names} | {getattr(node, "module", "")}
            assert not names & MODULES, "use import_module and handle the ImportError"
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in ("os", "signal"):
            guard = f'hasattr({node.value.id}, "{node.attr}")'
            guarded = guard in source.replace("'", '"') or "(OSError, AttributeError)" in source
            assert guarded or node.attr not in FUNCTIONS, node.attr


@pytest.mark.parametrize("hidden", SYSTEMS, ids=["this system", "msvcrt"])
def test_a_lock_excludes_other_processes_until_its_process_ends(tmp_path: Path, hidden: bool) -> None:
    file = tmp_path / "lock"
    with holder(file, hidden) as (first, _):
        assert first == "free"
        with holder(file, hidden) as (second, _):
            assert second == "taken"
    with holder(file, hidden) as (third, process):
        assert third == "free"
        process.kill()
    with holder(file, hidden) as (fourth, _):
        assert fourth == "free"


def test_a_machine_without_locks_refuses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with holder(tmp_path / "lock", hidden=False):
        monkeypatch.setitem(sys.modules, "fcntl", None)
        monkeypatch.setitem(sys.modules, "msvcrt", ModuleType("msvcrt"))
        monkeypatch.setattr("msvcrt.LK_NBLCK", 2, raising=False)
        monkeypatch.setattr("msvcrt.locking", no_locks, raising=False)
        held = lock(tmp_path / "lock")
    assert held is not None
    held.close()


def no_locks(descriptor: int, mode: int, size: int) -> None:
    raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))


@pytest.mark.parametrize("hidden", SYSTEMS, ids=["this system", "msvcrt"])
def test_a_waiting_lock_waits_and_says_for_what(tmp_path: Path, hidden: bool) -> None:
    code = (
        "import sys; from pathlib import Path; from covid_xray.files import waiting_lock\n"
        "made = Path(sys.argv[1] + '.made')\n"
        "with waiting_lock(Path(sys.argv[1]), 'makes it'):\n"
        "    print('held', made.exists(), flush=True); sys.stdin.readline(); made.touch()"
    )

    def start() -> "subprocess.Popen[str]":
        command = [sys.executable, "-u", "-c", code, str(tmp_path / "lock")]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        return subprocess.Popen(command, env=environment(hidden), text=True, **pipes)  # type: ignore[call-overload,no-any-return]

    first = start()
    assert first.stdout is not None
    assert first.stdout.readline() == "held False\n"
    second = start()
    assert second.stdout is not None
    assert second.stdout.readline() == "Waiting for another process that makes it\n"
    time.sleep(0.3)  # a process that does not wait goes on in this time; one that waits may take any time
    first.communicate("go on\n", timeout=60)
    assert second.communicate("go on\n", timeout=60)[0] == "held True\n"


def test_bytes_at_an_offset_without_pread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Many threads write and read one descriptor; without the lock of the position they mix the parts."""
    monkeypatch.delattr(os, "pread", raising=False)
    monkeypatch.delattr(os, "pwrite", raising=False)
    parts = {number * 5000: bytes([number]) * 5000 for number in range(200)}
    descriptor = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT | getattr(os, "O_BINARY", 0))
    try:
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda offset: write_at(descriptor, parts[offset], offset), parts))
            found = list(pool.map(lambda offset: read_at(descriptor, 5000, offset), parts))
        assert found == list(parts.values())
        assert read_at(descriptor, 5000, 200 * 5000 - 10) == bytes([199]) * 10
    finally:
        os.close(descriptor)


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], XrayDataModule]:
    """Make a datamodule of drawn chests, cached, with a number of loader workers."""
    folder = tmp_path_factory.mktemp("drawn")
    records = cx.draw_phantoms(folder / "phantoms", patients=30, images_per_patient=1, size=40)
    records = cx.assign_splits(records, by="patient", seed=0)
    schedule = cx.Schedule({"all": cx.Phase(image_size=32, batch_size=3, epochs=1, trains="all", max_lr=1e-3)})

    def make(workers: int) -> XrayDataModule:
        return XrayDataModule(records, schedule, num_workers=workers, cache=str(folder / "cache"))

    return make


@pytest.mark.parametrize("method", ["fork", "spawn", pytest.param("forkserver", marks=pytest.mark.slow)])
def test_batches_are_the_same_however_a_worker_is_started(
    method: str, drawn: Callable[[int], XrayDataModule], monkeypatch: pytest.MonkeyPatch
) -> None:
    if method not in multiprocessing.get_all_start_methods():
        pytest.skip(f"this system has no {method}")
    before = multiprocessing.get_start_method()
    multiprocessing.set_start_method(method, force=True)
    monkeypatch.setenv("PYTHONPATH", str(TESTS.parent))
    try:
        batches = [list(drawn(workers).train_dataloader()) for workers in (0, 1)]
    finally:
        multiprocessing.set_start_method(before, force=True)
    assert len(batches[0]) == len(batches[1]) > 1
    for alone, worker in zip(*batches, strict=True):
        assert torch.equal(alone[0], worker[0])
        assert torch.equal(alone[1], worker[1])


@ON_POSIX
@pytest.mark.slow
def test_a_run_without_what_windows_lacks_has_the_same_weights(covid_xray: Command, tiny_run: Path) -> None:
    hidden = {"PYTHONPATH": environment(hidden=True)["PYTHONPATH"]}
    arguments = ("experiment=tiny", "run_dir=hidden-run", "datamodule.cache=hidden-cache", "datamodule.num_workers=1")
    result = covid_xray("train", *arguments, env=hidden, timeout=600)
    assert result.returncode == 0, result.stderr[-3000:]
    one, other = (
        torch.load(run / "checkpoints/last.ckpt", weights_only=True)["state_dict"]
        for run in (tiny_run, tiny_run.with_name("hidden-run"))
    )
    assert not differences(one, other)


@pytest.mark.skipif(sys.version_info < (3, 14), reason="Python 3.14 needs hydra-core 1.4, which is not released")
def test_python_3_14_with_hydra_core_1_4(covid_xray: Command) -> None:
    """hydra-core 1.3 passes an object as a help text to argparse, which Python 3.14 refuses (hydra issue 3121)."""
    assert version("hydra-core") >= "1.4", "requires-python and hydra-core in pyproject.toml are to be raised together"
    result = covid_xray("train", "experiment=tiny", "--cfg", "job")
    assert result.returncode == 0, result.stderr
