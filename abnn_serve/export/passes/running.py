"""Folds running statistics that could not be folded into a convolution into the maps of the conditional form.

    gamma * (s z + t) + beta = (s gamma) * z + (t gamma + beta),  gamma, beta = split(M code + b)
      = split(M' code + b') where the rows of gamma are scaled by s, and t times them is added to the rows of beta

s = scale / sqrt(var + eps) and t = bias - mean * s are those of a BatchNormalization after a pooling or an addition, as
in networks that normalise before they convolve; the exporter has folded all others.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from abnn_serve.runtime.rewrites.values import add_constant, constants, only_reader, tidy


@dataclass(frozen=True)
class _Match:
    """A BatchNormalization, and the Gemm that computes the gamma and beta applied after it."""

    norm: ir.Node
    product: ir.Node
    weight: NDArray[Any]
    bias: NDArray[Any]
    slope: NDArray[Any]
    shift: NDArray[Any]


def fold_running_statistics(model: ir.Model) -> None:
    """Rewrite every BatchNormalization that only an adaptive layer reads, in place."""
    for node in list(model.graph):
        if node.op_type == "BatchNormalization" and (match := _match(node)):
            _fold(model.graph, match)
    tidy(model)


def _match(norm: ir.Node) -> _Match | None:
    scaled = _reader(norm.outputs[0], "Mul")
    shifted = _reader(scaled.outputs[0], "Add") if scaled else None
    if scaled is None or shifted is None:
        return None
    gamma, beta = _computed(scaled, norm.outputs[0]), _computed(shifted, scaled.outputs[0])
    split = gamma.producer() if gamma is not None else None
    if split is None or split.op_type != "Split" or list(split.outputs) != [gamma, beta]:
        return None
    product = split.inputs[0].producer() if split.inputs[0] else None
    if product is None or product.op_type != "Gemm" or len(product.inputs) != 3 or not _read_once(split):
        return None
    numbers = constants(*(value for value in (*product.inputs[1:], *norm.inputs[1:]) if value is not None))
    if numbers is None or product.attributes.get_int("transB", 0) != 1:
        return None
    weight, bias, scale, offset, mean, variance = (np.asarray(each, np.float64) for each in numbers)
    slope = scale / np.sqrt(variance + norm.attributes.get_float("epsilon", 1e-5))
    return _Match(norm, product, weight, bias, slope, offset - mean * slope)


def _reader(value: ir.Value, kind: str) -> ir.Node | None:
    node = only_reader(value)
    return node if node is not None and node.op_type == kind else None


def _computed(node: ir.Node, feature_map: ir.Value) -> ir.Value | None:
    """The (N, C) value that a node multiplies a feature map by, or adds to it."""
    others = [value for value in node.inputs if value is not feature_map]
    value = others[0] if len(others) == 1 else None
    while value is not None and (source := value.producer()) is not None and source.op_type == "Unsqueeze":
        value = source.inputs[0]
    return value


def _read_once(split: ir.Node) -> bool:
    return all(only_reader(value) for value in (*split.inputs[:1], *split.outputs) if value is not None)


def _fold(graph: ir.Graph, match: _Match) -> None:
    for position, numbers in ((1, match.weight), (2, match.bias)):
        gamma, beta = np.split(numbers, 2)
        column = (slice(None),) + (None,) * (numbers.ndim - 1)
        folded = np.concatenate([match.slope[column] * gamma, beta + match.shift[column] * gamma]).astype(np.float32)
        old = match.product.inputs[position]
        name = f"{old.name if old else position}.running"
        match.product.replace_input_with(position, add_constant(graph, name, folded))
    source = match.norm.inputs[0]
    assert source is not None  # noqa: S101
    ir.convenience.replace_all_uses_with(match.norm.outputs[0], source)
