"""Batch samplers."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from covid_xray.data.sampling import Balanced, BatchShare, EvalBatches, Independent, Order, Sample, TrainBatches
from covid_xray.errors import UserError

SIZES = st.integers(8, 100)


@given(n=SIZES, share=st.integers(1, 4), world=st.integers(1, 4), epoch=st.integers(0, 9), seed=st.integers(0, 99))
def test_processes_divide_the_batches_of_one_process(n: int, share: int, world: int, epoch: int, seed: int) -> None:
    batch_size = share * world
    if batch_size > n:
        return
    one = _batches(TrainBatches(_labels(n), seed), epoch, batch_size)
    several = [_batches(TrainBatches(_labels(n), seed, rank, world), epoch, batch_size) for rank in range(world)]
    for number, batch in enumerate(one):
        assert batch == [sample for batches in several for sample in batches[number]]
    rows = [sample.row for batch in one for sample in batch]
    assert len(rows) == len(set(rows)) == n // batch_size * batch_size


@given(n=SIZES, batch_size=st.integers(1, 8), first=st.integers(0, 12), seed=st.integers(0, 99))
def test_resumed_epoch_is_the_rest_of_the_whole_epoch(n: int, batch_size: int, first: int, seed: int) -> None:
    whole, resumed = TrainBatches(_labels(n), seed), TrainBatches(_labels(n), seed)
    whole.begin(3, batch_size, 64)
    resumed.begin(3, batch_size, 64, first)
    assert list(resumed) == list(whole)[first:]
    assert len(resumed) == len(whole) == len(list(whole))


def test_epochs_and_seeds_give_different_orders() -> None:
    orders = {
        tuple(s.row for b in _batches(TrainBatches(_labels(50), seed), epoch, 5) for s in b)
        for seed, epoch in np.ndindex(3, 3)
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


ORDERS: dict[str, Order] = {"balanced": Balanced(), "batch_share": BatchShare("a", 0.3)}


@given(
    counts=st.lists(st.integers(1, 30), min_size=2, max_size=4),
    batch_size=st.integers(2, 9),
    name=st.sampled_from(sorted(ORDERS)),
    seed=st.integers(0, 99),
    first=st.integers(0, 3),
)
def test_other_orders_are_pure_and_resume(counts: list[int], batch_size: int, name: str, seed: int, first: int) -> None:
    labels = [letter for letter, count in zip("abcd", counts, strict=False) for _ in range(count)]
    whole, again = (TrainBatches(labels, seed, order=ORDERS[name]) for _ in range(2))
    batches = _batches(whole, 2, batch_size)
    again.begin(2, batch_size, 64, first)
    assert list(again) == batches[first:]
    seeds = [sample.seed for batch in batches for sample in batch]
    assert len(seeds) == len(set(seeds)), "a repeated image is augmented differently"
    two = [_batches(TrainBatches(labels, seed, r, 2, ORDERS[name]), 2, 2 * batch_size) for r in (0, 1)]
    one = _batches(TrainBatches(labels, seed, order=ORDERS[name]), 2, 2 * batch_size)
    assert [[*a, *b] for a, b in zip(*two, strict=True)] == one


def test_balanced_draws_all_classes_equally_often() -> None:
    labels = ["a"] * 10 + ["b"] * 500 + ["c"] * 90
    rows = [s.row for e in range(20) for b in _batches(TrainBatches(labels, 0, order=Balanced()), e, 10) for s in b]
    shares = np.unique(np.array(labels)[rows], return_counts=True)[1] / len(rows)
    np.testing.assert_allclose(shares, 1 / 3, atol=0.02)
    assert set(rows) >= set(range(10))


def test_batch_share_is_the_same_in_every_batch() -> None:
    labels = np.array(["a"] * 10 + ["b"] * 50 + ["c"] * 60)
    batches = _batches(TrainBatches(labels.tolist(), 0, order=BatchShare("a", 0.3)), 0, 8)
    assert {int((labels[[sample.row for sample in batch]] == "a").sum()) for batch in batches} == {2}
    others = [sample.row for batch in batches for sample in batch if labels[sample.row] != "a"]
    assert len(others) == len(set(others)) == 110 // 6 * 6
    with pytest.raises(UserError, match=r"sampler\.class_name='x' is no class; use one of a, b, c"):
        _batches(TrainBatches(labels.tolist(), 0, order=BatchShare("x")), 0, 8)
    with pytest.raises(UserError, match=r"sampler\.share must be"):
        BatchShare("a", 1)


GROUPS = st.lists(st.integers(1, 9), min_size=6, max_size=6)  # images of the classes a and b from x, y and z


@given(counts=GROUPS, lacking=st.integers(0, 9), seed=st.integers(0, 99), first=st.integers(0, 3))
def test_independent_order_is_pure_and_leaves_out_a_source_that_lacks_a_class(
    counts: list[int], lacking: int, seed: int, first: int
) -> None:
    groups = [pair for pair, count in zip(np.ndindex(2, 3), counts, strict=True) for _ in range(count)]
    groups += [(0, 3)] * lacking
    labels, sources = [str(label) for label, _ in groups], [str(source) for _, source in groups]
    whole, again = (TrainBatches(labels, seed, order=Independent(), sources=sources) for _ in range(2))
    batches = _batches(whole, 2, 2)
    again.begin(2, 2, 64, first)
    assert list(again) == batches[first:]
    assert len(batches) == len(labels) // 2
    assert "3" not in {sources[sample.row] for batch in batches for sample in batch}
    seeds = [sample.seed for batch in batches for sample in batch]
    assert len(seeds) == len(set(seeds)), "a repeated image is augmented differently"


def test_independent_keeps_the_shares_of_classes_and_of_sources() -> None:
    counts = {("a", "x"): 90, ("a", "y"): 10, ("b", "x"): 6, ("b", "y"): 194}
    labels, sources = zip(*[pair for pair, count in counts.items() for _ in range(count)], strict=True)
    sampler = TrainBatches(labels, 0, order=Independent(), sources=sources)
    rows = [sample.row for epoch in range(60) for batch in _batches(sampler, epoch, 10) for sample in batch]
    drawn = Counter((labels[row], sources[row]) for row in rows)
    for (label, source), count in drawn.items():
        assert count / len(rows) == pytest.approx(labels.count(label) * sources.count(source) / 300**2, abs=0.01)
    assert set(rows) == set(range(300))


@pytest.mark.parametrize(
    ("labels", "sources", "words"),
    [
        ("aabb", "xxxx", "all images have one source"),
        ("aabb", "xxyy", "no source has both a and b images"),
        ("abbc", "xxyy", r"no source has training images of every class \(a, b, c\)"),
    ],
)
def test_independence_that_cannot_be_is_refused(labels: str, sources: str, words: str) -> None:
    with pytest.raises(UserError, match=words):
        len(TrainBatches(list(labels), 0, order=Independent(), sources=list(sources)))


def _labels(n: int) -> list[str]:
    return ["a"] * n


def _batches(sampler: TrainBatches, epoch: int, batch_size: int) -> list[list[Sample]]:
    sampler.begin(epoch, batch_size, 64)
    return list(sampler)
