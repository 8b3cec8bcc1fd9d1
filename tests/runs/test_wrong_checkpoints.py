"""The checkpoint of a received run is continued, refused in one sentence, or replaced by the one before it."""

import resource
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from itertools import product
from typing import Any

import pandas as pd
import pytest
import torch
from test_api import Small, records
from test_fit import fit, hole, load, stopped, whole

import covid_xray as cx
from covid_xray.networks.weights import load_weights
from covid_xray.runs.folder import RunFolder
from covid_xray.training.callbacks import checkpoint

__all__ = ["records", "stopped", "whole"]
MISSING = object()
WRONG: dict[str, object] = {
    **{"missing": MISSING, "none": None, "text": "x", "number": -7, "list": [1], "mapping": {"a": 1}},
    **{"nan": float("nan"), "huge": 10**30, "expanded": torch.zeros(1).expand(2**40)},
}


def places(node: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The keys that lead to every value, of lists and of mappings of tensors the first only."""
    if path:
        yield path
    items = list(node.items()) if isinstance(node, dict) else list(enumerate(node)) if isinstance(node, list) else []
    if len(items) > 1 and all(isinstance(value, torch.Tensor) or isinstance(key, int) for key, value in items):
        del items[1:]
    for key, value in items:
        yield from places(value, (*path, key))


def changed(state: dict[str, Any], path: tuple[Any, ...], wrong: object) -> dict[str, Any]:
    """A copy of a state with one wrong value."""
    copy = deepcopy(state)
    node: Any = copy
    for key in path[:-1]:
        node = node[key]
    if wrong is MISSING:
        del node[path[-1]]
    else:
        node[path[-1]] = wrong
    return copy


def try_all(
    records: pd.DataFrame, folder: RunFolder, paths: Sequence[tuple[Any, ...]], wrong: Mapping[str, object]
) -> set[tuple[tuple[Any, ...], str]]:
    """Continue the run from each wrong checkpoint; returns those that are refused."""
    folder.previous.replace(folder.last)  # of the epoch before the last
    state, refused = load(folder.path), set()
    for path, (name, value) in product(paths, wrong.items()):
        torch.save(changed(state, path, value), folder.last)
        try:
            fit(records, folder.path)
        except cx.UserError as error:
            if "\n" not in str(error):
                refused.add((path, name))
        except Exception as error:
            raise AssertionError(f"{path}: {name}") from error
        folder.metrics.unlink(missing_ok=True)
    return refused


def test_a_wrong_part_is_refused(records: pd.DataFrame, stopped: RunFolder) -> None:
    paths: list[tuple[Any, ...]] = [(part,) for part in checkpoint._PARTS]
    paths += [("state_dict", "mean"), ("callbacks", "RunCheckpoint", "best"), ("optimizer_states", 0, "state")]
    refused = try_all(records, stopped, paths, {"text": "x", "expanded": torch.zeros(1).expand(2**40)})
    assert len(refused) == 2 * len(paths)


@pytest.mark.slow
def test_any_wrong_field_is_refused_or_ignored(records: pd.DataFrame, stopped: RunFolder) -> None:
    assert try_all(records, stopped, list(places(load(stopped.path))), WRONG)


def test_optimizer_of_another_network(records: pd.DataFrame, stopped: RunFolder) -> None:
    stopped.previous.replace(stopped.last)
    state = load(stopped.path)
    moments = next(iter(state["optimizer_states"][0]["state"].values()))
    moments["exp_avg"] = torch.zeros(1).expand(2**40)
    torch.save(state, stopped.last)
    with pytest.raises(cx.UserError, match=r"last\.ckpt does not fit this run \(ValueError: exp_avg of a parameter"):
        fit(records, stopped.path)


def test_weights_that_changed_on_the_disk_are_not_used(stopped: RunFolder) -> None:
    cx.load_run(stopped.path, network=Small(3))
    hole(stopped.best)
    with pytest.raises(cx.UserError, match=r"best\.ckpt .*(wrong checksum|cannot be read)"):
        cx.load_run(stopped.path, network=Small(3))


@pytest.mark.parametrize("dtype", [torch.int8, torch.complex64])
def test_weights_of_another_kind_of_number_are_refused(stopped: RunFolder, dtype: torch.dtype) -> None:
    state = load(stopped.path)
    name = next(name for name, tensor in state["state_dict"].items() if tensor.ndim == 4 and "network" in name)
    weights = state["state_dict"][name]
    state["state_dict"][name] = weights.to(dtype)
    torch.save(state, stopped.best)
    with pytest.raises(cx.UserError, match=f"does not fit .*{name} has the type {dtype}"):
        cx.load_run(stopped.path, network=Small(3), checkpoint="best")
    with pytest.raises(cx.UserError, match="has another shape or type"):
        load_weights(Small(3), str(stopped.best))
    state["state_dict"][name] = weights.to(torch.float16)
    torch.save(state, stopped.best)
    cx.load_run(stopped.path, network=Small(3), checkpoint="best")


def test_a_compressed_checkpoint_takes_no_memory(stopped: RunFolder) -> None:
    zeros = 1 << 28
    with (
        zipfile.ZipFile(stopped.last, "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open("archive/data/0", "w") as part,
    ):
        for _ in range(zeros >> 24):
            part.write(bytes(1 << 24))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert "is compressed, with 268,435,456 bytes" in checkpoint.damage(stopped.last)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < zeros >> 12  # kB
