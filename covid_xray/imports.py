"""Imports of torch and of the libraries that build on it, in less time."""

import atexit
import contextlib
import gc
import sys
from collections.abc import Iterator
from importlib import import_module
from types import ModuleType
from typing import Any

from covid_xray.errors import UserError

_ADDRESS_SPACE = 5e9  # bytes; with 4.1e9, the libraries end the process while they are imported, without an exception


@contextlib.contextmanager
def quick_imports() -> Iterator[None]:
    """Import the large libraries within this block without garbage collection, which is a fifth of their time.

    The collector would look through all objects again and again, although an import frees hardly any. It also leaves
    the modules' objects out from then on, in this process and in the loader workers that are forked from it.

    torchmetrics imports scipy.signal, and with it most of scipy, only to add a function that another library needs. It
    finds that function in an empty module of this name, which is there within this block only.

    Raises:
        UserError: If the address space of the process is limited to less than the libraries need.
    """
    if "torch" in sys.modules or not gc.isenabled():
        yield
        return
    _check_address_space()
    empty: Any = ModuleType("scipy.signal")
    empty.hamming = None
    signal = sys.modules.setdefault("scipy.signal", empty)
    gc.disable()
    try:
        yield
    finally:
        if signal is empty:
            del sys.modules["scipy.signal"]
        gc.freeze()
        atexit.register(gc.unfreeze)  # or libraries in C++ report their objects as leaked
        gc.enable()


def _check_address_space() -> None:
    try:
        resource: Any = import_module("resource")
    except ImportError:  # on Windows
        return
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    if limit != resource.RLIM_INFINITY and limit < _ADDRESS_SPACE:
        raise UserError(
            f"the memory of this process is limited to {limit / 1e9:.1f} GB of address space, and torch needs at least "
            f"{_ADDRESS_SPACE / 1e9:.0f} GB; raise the limit (ulimit -v), or ask the cluster for more memory"
        )
