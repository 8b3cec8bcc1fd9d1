"""Batch samplers."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from covid_xray.data.sampling import EvalBatches, TrainBatches

SIZES = st.integers(8, 100)


@given(n=SIZES, share=st.integers(1, 4), world=st.integers(1, 4), epoch=st.integers(0, 9), seed=st.integers(0, 99))
def test_processes_divide_the_batches_of_one_process(n: int, share: int, world: int, epoch: int, seed: int) -> None:
    batch_size = share * world
    if batch_size > n:
        return
    one = _batches(TrainBatches(n, seed), epoch, batch_size)
    several = [_batches(TrainBatches(n, seed, rank, world), epoch, batch_size) for rank in range(world)]
    for number, batch in enumerate(one):
        assert batch == [sample for batches in several for sample in batches[number]]
    rows = [sample.row for batch in one for sample in batch]
    assert len(rows) == len(set(rows)) == n // batch_size * batch_size


@given(n=SIZES, batch_size=st.integers(1, 8), first=st.integers(0, 12), seed=st.integers(0, 99))
def test_resumed_epoch_is_the_rest_of_the_whole_epoch(n: int, batch_size: int, first: int, seed: int) -> None:
    whole, resumed = TrainBatches(n, seed), TrainBatches(n, seed)
    whole.begin(3, batch_size, 64)
    resumed.begin(3, batch_size, 64, first)
    assert list(resumed) == list(whole)[first:]
    assert len(resumed) == len(whole) == len(list(whole))


def test_epochs_and_seeds_give_different_orders() -> None:
    orders = {
        tuple(s.row for b in _batches(TrainBatches(50, seed), epoch, 5) for s in b) for seed, epoch in np.ndindex(3, 3)
    }
    assert len(orders) == 9


@given(n=st.integers(1, 60), world=st.integers(1, 5), batch_size=st.integers(1, 9))
def test_evaluation_batches_contain_every_image_once(n: int, world: int, batch_size: int) -> None:
    rows = []
    for rank in range(world):
        sampler = EvalBatches(n, rank, world)
        sampler.begin(batch_size, 32)
        batches = list(sampler)
        assert len(batches) == len(sampler)
        rows += [sample.row for batch in batches for sample in batch]
    assert sorted(rows) == list(range(n))


def _batches(sampler: TrainBatches, epoch: int, batch_size: int) -> list:  # type: ignore[type-arg]
    sampler.begin(epoch, batch_size, 64)
    return list(sampler)
