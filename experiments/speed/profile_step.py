"""Measures the time of every kind of operation in a training step, before and after the changes for speed.

``python experiments/speed/profile_step.py`` writes profile.csv. Before: float32, contiguous, optimiser not fused, as in
most scripts. After: as in `covid_xray`. Both have the same network and one synthetic batch of 16 images of 224 pixels.
"""

from collections import Counter
from typing import Any

import torch
from bench import HERE, Scenario, hardware, write_table
from contenders import DEVICE, our_network
from torch.nn import functional as F
from torch.profiler import ProfilerActivity, profile

STEPS = 3
# Kind of an operation of PyTorch, by the beginning of its name; the first match counts.
KINDS = {
    "convolution, backward": ("aten::convolution_backward", "aten::mkldnn_convolution_backward"),
    "convolution, forward": ("aten::mkldnn_convolution", "aten::_convolution", "aten::cudnn_convolution", "aten::conv"),
    "BatchNorm, backward": ("aten::native_batch_norm_backward", "aten::cudnn_batch_norm_backward"),
    "BatchNorm, forward": ("aten::native_batch_norm", "aten::cudnn_batch_norm"),
    "ReLU and additions": ("aten::relu", "aten::clamp", "aten::threshold", "aten::add"),
    "pooling": ("aten::max_pool", "aten::amax", "aten::mean"),
    "changes of type and copies": ("aten::copy", "aten::to", "aten::_to_copy", "aten::contiguous", "aten::clone"),
    "optimiser": ("aten::_fused_adamw", "aten::addcdiv", "aten::lerp", "aten::sqrt", "aten::div", "aten::mul"),
}  # fmt: skip


def main() -> None:
    """Profile both variants in the unfrozen and the frozen phase, and write the table."""
    rows: list[dict[str, Any]] = []
    for phase, unfrozen in {"unfrozen": True, "frozen": False}.items():
        for when, fast in {"before": False, "after": True}.items():
            times = step_times(Scenario(phase, "", size=224, batch=16, images=16, unfrozen=unfrozen), fast)
            total = sum(times.values())
            rows += [
                {
                    "phase": phase,
                    "when": when,
                    "operations": kind,
                    "milliseconds_per_step": round(time, 1),
                    "share": round(time / total, 3),
                    "hardware": hardware(),
                }
                for kind, time in times.most_common()
            ]
    write_table(HERE / "profile.csv", rows)
    print(*(tuple(row.values())[:5] for row in rows), sep="\n")


def step_times(scenario: Scenario, fast: bool) -> Counter[str]:
    """Milliseconds of a step by kind of operation, without the time of nested operations."""
    network = our_network(vars(scenario)).to(DEVICE)
    images = torch.randn(scenario.batch, 3, scenario.size, scenario.size, device=DEVICE)
    if fast:
        network = network.to(memory_format=torch.channels_last)
        images = images.contiguous(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-5, fused=fast, foreach=False)
    labels = torch.arange(scenario.batch, device=DEVICE) % 3

    def step() -> None:
        with torch.autocast(DEVICE, torch.bfloat16, enabled=fast):
            logits = network(images)
        loss = F.cross_entropy(logits.float(), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    step()
    activities = [ProfilerActivity.CUDA if DEVICE == "cuda" else ProfilerActivity.CPU]
    with profile(activities=activities) as recorded:
        for _ in range(STEPS):
            step()
    times: Counter[str] = Counter()
    for event in recorded.key_averages():
        duration = event.self_device_time_total if DEVICE == "cuda" else event.self_cpu_time_total
        kind = next((kind for kind, names in KINDS.items() if event.key.startswith(names)), "everything else")
        times[kind] += duration / STEPS / 1000
    return times


if __name__ == "__main__":
    main()
