"""Imports of torch and of the libraries that build on it, in less time."""

import atexit
import contextlib
import gc
import sys
from collections.abc import Iterator


@contextlib.contextmanager
def quick_imports() -> Iterator[None]:
    """Import the large libraries within this block without garbage collection, which is a fifth of their time.

    The collector would look through all objects again and again, although an import frees hardly any. It also leaves
    the modules' objects out from then on, in this process and in the loader workers that are forked from it.
    """
    if "torch" in sys.modules or not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        atexit.register(gc.unfreeze)  # or libraries in C++ report their objects as leaked
        gc.enable()
