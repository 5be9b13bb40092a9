"""The torch device by name."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

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


@contextlib.contextmanager
def exact_fp32() -> Iterator[None]:
    """Compute float32 convolutions and products on CUDA without TF32, as ONNX Runtime does here.

    torch's default for convolutions keeps 10 bits of the mantissa, so logits differ from the served ones and depend on
    the batch size.
    """
    backends = (torch.backends.cudnn.conv, torch.backends.cuda.matmul)  # type: ignore[attr-defined]
    before = [backend.fp32_precision for backend in backends]
    try:
        for backend in backends:
            backend.fp32_precision = "ieee"
        yield
    finally:
        for backend, precision in zip(backends, before, strict=True):
            backend.fp32_precision = precision


def describe_device(device: str) -> str:
    """Name of the hardware of a torch device."""
    return torch.cuda.get_device_name(device) if device.startswith("cuda") else describe_cpu()
