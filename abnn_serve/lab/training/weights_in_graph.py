"""Weights that a bundle's graph holds already, folded: only a factor for each output channel is stored beside it."""

from __future__ import annotations

import onnx
import torch
from onnx import numpy_helper
from torch import Tensor

from abnn_serve.errors import BundleIntegrityError
from abnn_serve.lab.networks.weights import State

_ROUNDING = 1e-6  # of a weight, relative: folding multiplies it once or twice in float32


def leave_to_graph(state: State, model: bytes) -> tuple[State, list[str]]:
    """Replace each weight that an initializer of `model` holds, up to a factor for each output channel, by the factors.

    Args:
        state: tensors under their names in torch.
        model: the serialised graph that was exported from them.

    Returns:
        the state, and the names of the replaced weights.
    """
    initializers = _initializers(model)
    short = dict(state)
    for name, value in state.items():
        folded = initializers.get(_in_graph(name))
        if value.dim() < 2 or folded is None or folded.shape != value.shape:
            continue
        factors = _factors(value, folded)
        if torch.allclose(_unfold(folded, factors), value, rtol=_ROUNDING, atol=0.0):
            short[name] = factors
    return short, [name for name in state if short[name] is not state[name]]


def take_from_graph(state: State, names: list[str], model: bytes) -> State:
    """The inverse of `leave_to_graph`, up to rounding.

    Raises:
        BundleIntegrityError: the graph has no such weights.
    """
    initializers = _initializers(model) if names else {}
    full = dict(state)
    for name in names:
        try:
            full[name] = _unfold(initializers[_in_graph(name)], state[name])
        except (KeyError, RuntimeError) as error:
            raise BundleIntegrityError(f"the graph has no weights for {name!r}; export the run again") from error
    return full


def _in_graph(name: str) -> str:
    return f"network.{name}"  # ServedNetwork's attribute


def _initializers(model: bytes) -> State:
    tensors = onnx.load_from_string(model).graph.initializer
    return {tensor.name: torch.from_numpy(numpy_helper.to_array(tensor).copy()) for tensor in tensors}


def _factors(value: Tensor, folded: Tensor) -> Tensor:
    """The least-squares factor of each output channel, (C,) in float32."""
    value, folded = value.double().flatten(1), folded.double().flatten(1)
    return ((value * folded).sum(1) / folded.square().sum(1).clamp_min(1e-300)).float()


def _unfold(folded: Tensor, factors: Tensor) -> Tensor:
    return folded * factors.view(-1, *[1] * (folded.dim() - 1))
