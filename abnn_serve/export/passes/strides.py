"""Drops gathers that keep all elements in order, which torch's strided views export to.

    Gather(Reshape(y, [-1]), row * size + offsets) = y      (indices count from 0 in the order of y)

torch's pooling uses `as_strided`. ONNX computes its indices in int64 from the batch size: nine nodes, some of which run
on the CPU even on a GPU, which prevents CUDA graphs.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from abnn_serve.runtime.rewrites.values import constant, dims, tidy

_BATCHES = (1, 3)  # indices are linear in the row, so two batch sizes suffice


def drop_identity_gathers(model: ir.Model) -> None:
    """Replace the output of each such gather by the value it reads."""
    for node in list(model.graph):
        source = _identity_source(node)
        if source is not None:
            ir.convenience.replace_all_uses_with(node.outputs[0], source)
    tidy(model)


def _identity_source(node: ir.Node) -> ir.Value | None:
    """The value that a Gather reads, if its output equals that value."""
    if node.op_type != "Gather" or node.attributes.get_int("axis", 0) != 0 or node.outputs[0].is_graph_output():
        return None
    flat, indices = node.inputs
    reshape = flat.producer() if flat is not None else None
    if reshape is None or reshape.op_type != "Reshape" or indices is None:
        return None
    source, shape = reshape.inputs[0], constant(reshape.inputs[1])
    if source is None or shape is None or shape.tolist() != [-1]:
        return None
    sample = [dimension for dimension in dims(source)[1:] if dimension is not None]
    if not sample or dims(source)[1:] != sample or dims(node.outputs[0])[1:] != sample:
        return None
    size = math.prod(sample)
    for batch in _BATCHES:
        order = np.arange(batch * size).reshape(batch, *sample)
        evaluated = _evaluate(indices, batch, source)
        if evaluated is None or not np.array_equal(evaluated, order):
            return None
    return source


def _evaluate(value: ir.Value | None, batch: int, source: ir.Value) -> NDArray[Any] | None:
    """Evaluate index arithmetic for a batch size; None for any other computation."""
    numbers = constant(value)
    node = value.producer() if value is not None else None
    if numbers is not None or node is None:
        return numbers
    if node.op_type == "Squeeze":
        return np.asarray(batch) if _is_batch_size(node.inputs[0], source) else None
    evaluated = [_evaluate(each, batch, source) for each in node.inputs]
    inputs = [each for each in evaluated if each is not None]
    if len(inputs) < len(evaluated):
        return None
    match node.op_type, inputs:
        case "Range", [start, limit, step]:
            return np.arange(int(start), int(limit), int(step))
        case "Mul", [a, b]:
            return np.asarray(a * b)
        case "Add", [a, b]:
            return np.asarray(a + b)
        case "Unsqueeze", [a, axes]:
            return np.expand_dims(a, tuple(axes.tolist()))
    return None


def _is_batch_size(value: ir.Value | None, source: ir.Value) -> bool:
    """Whether a value is only the first dimension, with the same name as in `source`."""
    node = value.producer() if value is not None else None
    if node is None or node.op_type != "Shape" or node.inputs[0] is None or source.shape is None:
        return False
    ends = node.attributes.get_int("start", 0), node.attributes.get_int("end", -1)
    shape = node.inputs[0].shape
    return ends == (0, 1) and shape is not None and shape[0] == source.shape[0]
