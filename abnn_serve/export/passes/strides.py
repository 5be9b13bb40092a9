"""Views that torch's decompositions express by strides, dropped where they change nothing.

    Gather(Reshape(y, [-1]), row * size + offsets) = y      (indices count from 0 in the order of y)

torch pools with `as_strided`, whose indices ONNX computes in int64 from the batch size: nine nodes, some on the CPU
even of a graph that runs on a GPU.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from abnn_serve.export.passes.rules import constant, known, tidy

_BATCHES = (1, 3)  # indices are linear in the row, so that two batch sizes tell


def drop_identity_strides(model: ir.Model) -> None:
    """Replace every gather of all elements in their order by what it gathers from."""
    for node in list(model.graph):
        source = _gathered_whole(node)
        if source is not None:
            ir.convenience.replace_all_uses_with(node.outputs[0], source)
    tidy(model)


def _gathered_whole(node: ir.Node) -> ir.Value | None:
    """What a Gather reads, if its output is that value again."""
    if node.op_type != "Gather" or node.attributes.get_int("axis", 0) != 0 or node.outputs[0].is_graph_output():
        return None
    flat, indices = node.inputs
    reshape = flat.producer() if flat is not None else None
    if reshape is None or reshape.op_type != "Reshape" or indices is None:
        return None
    source, shape = reshape.inputs[0], constant(reshape.inputs[1])
    if source is None or shape is None or shape.tolist() != [-1]:
        return None
    sample = [dimension for dimension in known(source)[1:] if dimension is not None]
    if not sample or known(source)[1:] != sample or known(node.outputs[0])[1:] != sample:
        return None
    size = math.prod(sample)
    for batch in _BATCHES:
        order = np.arange(batch * size).reshape(batch, *sample)
        evaluated = _evaluate(indices, batch, source)
        if evaluated is None or not np.array_equal(evaluated, order):
            return None
    return source


def _evaluate(value: ir.Value | None, batch: int, source: ir.Value) -> NDArray[Any] | None:
    """The numbers of index arithmetic for a batch size; None where it is anything else."""
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
    """Whether a value is the first dimension alone, under the name that it has in `source`."""
    node = value.producer() if value is not None else None
    if node is None or node.op_type != "Shape" or node.inputs[0] is None or source.shape is None:
        return False
    ends = node.attributes.get_int("start", 0), node.attributes.get_int("end", -1)
    shape = node.inputs[0].shape
    return ends == (0, 1) and shape is not None and shape[0] == source.shape[0]
