"""The best device and precision of this machine."""

import torch


def accelerator() -> str:
    """Lightning's name of the best device here: ``cuda``, ``mps`` or ``cpu``."""
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def best_precision(device: str) -> str:
    """Lightning's precision for a device: ``bf16-mixed`` where the hardware computes in bfloat16, else ``32-true``.

    Args:
        device: ``cuda`` (or ``gpu``), ``mps`` or ``cpu``.
    """
    if device in ("cuda", "gpu"):
        fast = torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False)
    elif device == "cpu":
        fast = _cpu_has_bf16()
    else:
        fast = False
    return "bf16-mixed" if fast else "32-true"


def _cpu_has_bf16() -> bool:
    # torch.cpu.get_capabilities() is public from torch 2.11 on; before, these names were private.
    if hasattr(torch.cpu, "get_capabilities"):
        capabilities = torch.cpu.get_capabilities()
        return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))
    return any(getattr(torch.cpu, name, bool)() for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"))
