"""Lets one process time others in turn: each trains without end, but only on while it is told to.

Also read in fastai's environment: nothing but the standard library and torch.
"""

import json
import os
import sys
import time
from multiprocessing.connection import Client, Connection

import torch


class Pacer:
    """Told after every batch; holds its process until it is asked for more.

    It is asked for ``["seconds", s]``: train for at least s seconds, validation and checkpoints between epochs not
    counted, or ``["images", n]``: train on n images, all counted. It answers with images, seconds and peak memory.
    The first batch is answered unasked: it says how long the start took.
    """

    def __init__(self) -> None:
        self._line: Connection = Client(os.environ["PACER"])
        self._kind, self._until = "images", 1.0
        self._start, self._images = float(os.environ["PACER_BORN"]), 0
        self._paused_at: float | None = None

    def batch_done(self, images: int) -> None:
        """Count a batch; where enough was done, answer and wait for the next question."""
        if self._paused_at is not None:
            self.go_on()
        self._images += images
        if self._images < self._until if self._kind == "images" else time.time() - self._start < self._until:
            return
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        answer = {"images": self._images, "seconds": time.time() - self._start, "peak_mb": peak_memory()}
        self._line.send_bytes(json.dumps(answer).encode())
        try:
            self._kind, self._until = json.loads(self._line.recv_bytes())
        except EOFError:
            sys.stdout.flush()
            os._exit(0)
        self._images, self._start = 0, time.time()

    def pause(self) -> None:
        """The clock stops, where only training counts, until `go_on` or the next batch."""
        if self._kind == "seconds" and self._paused_at is None:
            self._paused_at = time.time()

    def go_on(self) -> None:
        """The clock runs again."""
        if self._paused_at is not None:
            self._start += time.time() - self._paused_at
            self._paused_at = None


def peak_memory() -> float:
    """Largest memory so far, in MB: the GPU's where there is one, else this process's resident set."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 1e6
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
