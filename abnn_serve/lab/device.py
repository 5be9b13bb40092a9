"""The torch device by name."""

from __future__ import annotations

import torch

from abnn_serve.errors import ConfigError, DeviceError
from abnn_serve.hardware import describe_cpu


def pick_device(name: str) -> str:
    """`auto`, `cpu` or `cuda` to a torch device; DeviceError if `cuda` is unavailable."""
    if name not in ("auto", "cpu", "cuda"):
        raise ConfigError(f"device is {name!r}, expected auto, cpu or cuda")
    if name == "cuda" and not torch.cuda.is_available():
        raise DeviceError(
            "device is 'cuda' but torch finds no CUDA device; use --device cpu, or check the driver and torch's build"
        )
    return "cuda" if name != "cpu" and torch.cuda.is_available() else "cpu"


def describe_device(device: str) -> str:
    """Name of the hardware of a torch device."""
    return torch.cuda.get_device_name(device) if device.startswith("cuda") else describe_cpu()
