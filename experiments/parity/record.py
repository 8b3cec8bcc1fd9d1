"""Record the behaviour of fastai 2 in the article's four phases, as the reference for ``tests/test_parity.py``.

Needs fastai 2.8, which is no dependency of the project; see the README beside this file. Writes two files there:
``schedule_fastai.csv`` (rates and momentum of every optimiser step) and ``groups_fastai.json`` (layer groups, head, and
what trains while the body is frozen).

Both are recorded from the unchanged fastai. Its ``combine_scheds`` holds the borders of the cycle in a float32 tensor,
which rounds every position in the cycle. To measure the effect of the rounding, the phases run once more with this
tensor in float64; the script prints the largest difference, and the README states it.
"""

import csv
import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import fastai
import fastai.callback.schedule as fastai_schedule
import torch
import torchvision
from fastai.data.core import DataLoaders
from fastai.data.load import DataLoader
from fastai.learner import Callback, Learner
from fastai.optimizer import Adam
from fastai.torch_core import params
from fastai.vision.learner import vision_learner
from torch import Tensor, nn

FOLDER = Path(__file__).parent
EPOCHS = 5
BATCHES = 7  # 35 steps: the peak, at 30 %, is between two steps
ARTICLE_STEPS = 5 * 187  # of 64 out of 12,000 images
# fastai 2 divides the peak by div_final only; fastai 1 divides it by div, too.
CYCLE = {"pct_start": 0.3, "div": 25, "div_final": 25 * 1e4, "moms": (0.95, 0.85, 0.95)}
BODY = [name for name, _ in torchvision.models.resnet18().named_children()]  # the same names in every ResNet
GROUPS = ("early", "late", "head")
COLUMNS = ("phase", "step", "steps", *(f"lr_{group}" for group in GROUPS), "beta1")
PHASES = {  # name: (frozen, rates as the article's code gives them)
    "frozen_small": (True, slice(2e-3)),
    "unfrozen_small": (False, slice(1e-6, 4e-4)),
    "frozen_large": (True, slice(4e-4)),
    "unfrozen_large": (False, slice(1e-5, 8e-5)),
}
Row = tuple[str, int, int, float, float, float, float]


class RecordSteps(Callback):
    """Reads the hyperparameters of each optimiser step."""

    def __init__(self) -> None:
        self.steps: list[list[float]] = []

    def before_step(self) -> None:
        """Called after the schedule has set the step's values."""
        hypers = self.learn.opt.hypers
        momentum = {hyper["mom"] for hyper in hypers}
        assert len(momentum) == 1, "fastai uses one momentum for all groups"
        self.steps.append([float(hyper["lr"]) for hyper in hypers] + [float(momentum.pop())])


class RecordModes(Callback):
    """Reads which BatchNorm layers are in training mode at a step."""

    def __init__(self) -> None:
        self.training_modules: list[str] = []

    def before_step(self) -> None:
        """Called between the backward pass and the step."""
        self.training_modules = [
            name for name, m in self.learn.model.named_modules() if is_batch_norm(m) and m.training
        ]


def main() -> None:
    """Write both files and print the effect of the rounding to float32."""
    torch.manual_seed(0)
    rows = record_schedule()
    with (FOLDER / "schedule_fastai.csv").open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        writer.writerows([*row[:3], *map(repr, row[3:])] for row in rows)
    groups = json.dumps(record_groups(), indent=1)
    (FOLDER / "groups_fastai.json").write_text(groups + "\n")

    with positions_in_float64():
        exact_rows, exact_cycle = record_schedule(), cycle_values(ARTICLE_STEPS)
    difference, row = largest_difference(exact_rows, rows)
    print(f"Rounding of {len(rows)} recorded steps: at most {difference:.2e}, at {row[0]}, step {row[1]} of {row[2]}")
    difference, row = largest_difference(exact_cycle, cycle_values(ARTICLE_STEPS))
    print(f"Rounding of a phase as long as the article's: at most {difference:.2e}, at step {row[1]} of {row[2]}")


def record_schedule() -> list[Row]:
    """Train a tiny model through the four phases; one row per optimiser step."""
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 3))
    loaders = make_loaders([torch.randn(4) for _ in range(2 * BATCHES)])
    learner = Learner(loaders, model, nn.CrossEntropyLoss(), Adam, splitter=lambda m: [params(layer) for layer in m])
    rows: list[Row] = []
    for name, (frozen, max_lr) in PHASES.items():
        learner.create_opt()  # fastai 1 makes a new optimiser for every phase
        learner.freeze() if frozen else learner.unfreeze()
        record = RecordSteps()
        with learner.no_bar(), learner.no_logging():
            learner.fit_one_cycle(EPOCHS, lr_max=max_lr, cbs=record, **CYCLE)
        rows += [(name, step, len(record.steps), *values) for step, values in enumerate(record.steps)]
    return rows


def cycle_values(steps: int) -> list[Row]:
    """The one-cycle of fastai for a peak of 1, without training."""
    rate = fastai_schedule.combined_cos(CYCLE["pct_start"], 1 / CYCLE["div"], 1.0, 1 / CYCLE["div_final"])
    return [("cycle", step, steps, *[rate(step / steps)] * 4) for step in range(steps)]


def record_groups() -> dict[str, Any]:
    """Layer groups and head of a ResNet-50 from ``vision_learner``, and one training step with the body frozen."""
    loaders = make_loaders([torch.rand(3, 64, 64) for _ in range(4)], batch_size=4)
    learner = vision_learner(
        loaders,
        torchvision.models.resnet50,
        n_out=3,
        pretrained=False,
        loss_func=nn.CrossEntropyLoss(),
        opt_func=Adam,
        wd=0.01,
        wd_bn_bias=True,  # as the article: fastai 1 decays all parameters
        train_bn=True,
        bn_final=False,
        lin_first=False,
    )
    names = {parameter: article_name(name) for name, parameter in learner.model.named_parameters()}
    learner.create_opt()
    groups = [[names[parameter] for parameter in group] for group in learner.opt.param_lists]
    head = [describe(layer) for layer in learner.model[1]]

    learner.unfreeze()
    unfrozen = [name for parameter, name in names.items() if parameter.requires_grad]
    learner.freeze()
    frozen = [name for parameter, name in names.items() if parameter.requires_grad]
    modes = RecordModes()
    before = {name: value.clone() for name, value in learner.model.state_dict().items()}
    with learner.no_bar(), learner.no_logging():
        learner.fit(1, lr=1e-3, cbs=modes)
    after = learner.model.state_dict()
    changed = [article_name(name) for name, value in before.items() if not torch.equal(value, after[name])]
    mean = ".running_mean"

    return {
        "made_with": {"fastai": fastai.__version__, "torch": torch.__version__, "torchvision": torchvision.__version__},
        "groups": dict(zip(GROUPS, groups, strict=True)),
        "unfrozen_trains_everything": len(unfrozen) == len(names),
        "frozen": {
            "requires_grad": frozen,
            "changed_by_a_step": [name for name in changed if name in names.values()],
            "statistics_changed_by_a_step": [name.removesuffix(mean) for name in changed if name.endswith(mean)],
            "batch_norm_in_training_mode": [article_name(name) for name in modes.training_modules],
        },
        "head": head,
    }


def article_name(name: str) -> str:
    """Torchvision's name of a part of fastai's model: ``0.4.x`` is ``layer1.x``, ``1.2.x`` is ``head.2.x``."""
    part, index, *rest = name.split(".")
    return ".".join(["head", index, *rest] if part == "1" else [BODY[int(index)], *rest])


def describe(layer: nn.Module) -> dict[str, Any]:
    """Type and settings of one layer of the head."""
    settings: dict[str, Any] = {"type": type(layer).__name__}
    if isinstance(layer, nn.Linear):
        settings |= {"shape": [layer.in_features, layer.out_features], "bias": layer.bias is not None}
    elif isinstance(layer, nn.BatchNorm1d):
        settings |= {"shape": [layer.num_features], "eps": layer.eps, "momentum": layer.momentum}
        settings |= {"initial_bias": round(layer.bias[0].item(), 6)}
    elif isinstance(layer, nn.Dropout):
        settings |= {"p": layer.p}
    elif "ConcatPool" in settings["type"]:
        # The output shows the order, not the names in the layer: the maximum of this input is 1, the mean a quarter.
        maximum_first = layer(torch.tensor([[[[0.0, 0.0], [0.0, 1.0]]]])).flatten()[0] == 1
        settings |= {"order": ["max", "mean"] if maximum_first else ["mean", "max"]}
    return settings


def make_loaders(inputs: list[Tensor], batch_size: int = 2) -> DataLoaders:
    """The inputs with labels, the same for training and validation."""
    items = [(x, torch.tensor(i % 3)) for i, x in enumerate(inputs)]
    return DataLoaders(DataLoader(items, bs=batch_size), DataLoader(items, bs=batch_size), device=torch.device("cpu"))


def is_batch_norm(module: nn.Module) -> bool:
    """Whether a module is a BatchNorm layer of any dimension."""
    return isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d)


@contextmanager
def positions_in_float64() -> Iterator[None]:
    """Make ``combine_scheds`` use float64 for the borders of the cycle; a one-cycle uses ``tensor`` nowhere else."""
    with patch.object(fastai_schedule, "tensor", lambda values: torch.tensor(list(values), dtype=torch.float64)):
        yield


def largest_difference(exact: Iterable[Row], other: Iterable[Row]) -> tuple[float, Row]:
    """Largest relative difference over all values of all rows, and the row that has it."""
    return max(
        (abs(theirs / ours - 1), row)
        for row, other_row in zip(exact, other, strict=True)
        for ours, theirs in zip(row[3:], other_row[3:], strict=True)
    )


if __name__ == "__main__":
    main()
