"""Lets one process measure others in turn: each of them trains without end, but only on request.

fastai's environment imports this file too, so it needs only the standard library and torch.
"""

import json
import os
import sys
import time
from multiprocessing.connection import Client, Connection

import torch


class Pacer:
    """Counts batches, and blocks its process between two requests.

    A request is ``["seconds", s]`` (train for at least s seconds, without validation and checkpoints between epochs) or
    ``["images", n]`` (train on n images, with validation and checkpoints). The answer holds images, seconds and peak
    memory. The first batch is answered without a request: its seconds are the time since the start of the process.
    """

    def __init__(self) -> None:
        self._connection: Connection = Client(os.environ["PACER"])
        self._kind, self._until = "images", 1.0
        self._start, self._images = float(os.environ["PACER_START"]), 0
        self._paused_at: float | None = None

    def batch_done(self, images: int) -> None:
        """Count a batch; if the request is fulfilled, answer it and wait for the next one."""
        if self._paused_at is not None:
            self.go_on()
        self._images += images
        if self._images < self._until if self._kind == "images" else time.time() - self._start < self._until:
            return
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        answer = {"images": self._images, "seconds": time.time() - self._start, "peak_mb": peak_memory()}
        self._connection.send_bytes(json.dumps(answer).encode())
        try:
            self._kind, self._until = json.loads(self._connection.recv_bytes())
        except EOFError:
            sys.stdout.flush()
            os._exit(0)
        self._images, self._start = 0, time.time()

    def pause(self) -> None:
        """Stop the clock until `go_on` or the next batch, if only training counts."""
        if self._kind == "seconds" and self._paused_at is None:
            self._paused_at = time.time()

    def go_on(self) -> None:
        """Resume the clock."""
        if self._paused_at is not None:
            self._start += time.time() - self._paused_at
            self._paused_at = None


def peak_memory() -> float:
    """Peak memory in MB: that of the GPU if there is one, else the resident set of this process."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 1e6
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
