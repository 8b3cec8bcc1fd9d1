"""Loader workers: as many as shared memory allows, and noticed when they die."""

import os
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor
from torch.utils.data import Dataset, get_worker_info

from covid_xray.data import loader
from covid_xray.data.dataset import Batch, collate
from covid_xray.data.loader import TimedLoader, affordable_workers
from covid_xray.errors import UserError

PAGE = 4096


class Batches(Dataset[Tensor]):
    """Batches of images; each worker does what a test says before it makes one."""

    def __init__(self, fault: str = "") -> None:
        self.fault = fault

    def __len__(self) -> int:
        return 8

    def __getitems__(self, rows: list[int]) -> Batch:
        if self.fault == "dies":
            os._exit(7)
        if self.fault == "full":
            raise RuntimeError("unable to write to file </torch_1_2_3>: No space left on device (28)")
        if self.fault == "waits":
            torch.multiprocessing.Event().wait()
        return torch.zeros(len(rows), 1, 4, 4, dtype=torch.uint8), torch.tensor(rows)


def timed(fault: str = "") -> TimedLoader:
    return TimedLoader(Batches(fault), batch_size=2, num_workers=1, collate_fn=collate)


@pytest.mark.parametrize(
    ("free_batches", "processes", "expected"),
    [
        (100, 1, 8),
        (17 / 0.9 + 0.01, 1, 8),
        (16.9 / 0.9, 1, 7),
        (3 / 0.9 + 0.01, 1, 1),
        (2, 1, 0),
        (0, 1, 0),
        (40, 4, 4),
    ],
)
def test_workers_that_fit_into_shared_memory(
    monkeypatch: pytest.MonkeyPatch, free_batches: float, processes: int, expected: int
) -> None:
    batch = 32 * 448 * 448
    free = free_batches * (batch + 4 * PAGE) / PAGE
    monkeypatch.setattr(os, "statvfs", lambda path: SimpleNamespace(f_bavail=free, f_frsize=PAGE))
    assert affordable_workers(8, batch, processes) == expected


def test_a_machine_without_shared_memory_is_not_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(path: object) -> None:
        raise FileNotFoundError(path)

    monkeypatch.setattr(os, "statvfs", missing)
    assert affordable_workers(8, 10**12) == 8


@pytest.mark.parametrize(
    ("fault", "sentence"),
    [
        ("dies", "workers died or stopped"),
        ("full", "shared memory is full .*No space left on device"),
        ("waits", "workers died or stopped .*timed out"),
    ],
)
def test_a_worker_that_fails_ends_the_wait(monkeypatch: pytest.MonkeyPatch, fault: str, sentence: str) -> None:
    monkeypatch.setattr(loader, "TIMEOUT", 2)
    with pytest.raises(UserError, match=f"{sentence}.*--shm-size"):
        list(timed(fault))


def test_workers_share_the_batch_themselves(monkeypatch: pytest.MonkeyPatch) -> None:
    batch = Batches().__getitems__([0, 1])
    assert not any(part.is_shared() for part in collate(batch))  # type: ignore[no-untyped-call]
    monkeypatch.setattr("covid_xray.data.dataset.get_worker_info", lambda: SimpleNamespace(id=0))
    assert all(part.is_shared() for part in collate(batch))  # type: ignore[no-untyped-call]
    assert get_worker_info() is None
    assert [labels.tolist() for _, labels in timed()] == [[0, 1], [2, 3], [4, 5], [6, 7]]
