"""Converts the fused graph to half precision, for CUDA: the convolutions and the operations between them.

Statistics, maps and adaptive layers stay float32, because a sum over a feature map can exceed float16's 65,504.
"""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir

from abnn_serve.export.passes.rules import add_constant, constant, dims, tidy

_TRUNK = ("Conv", "Relu", "Add", "MaxPool", "Mul")


def to_fp16(model: bytes) -> bytes:
    """Convert the trunk to float16; inputs and outputs keep their types.

    Args:
        model: serialised graph, from `export_stages`.
    """
    converted = ir.serde.deserialize_model(onnx.load_from_string(model))
    graph = converted.graph
    trunk = [node for node in graph if _is_trunk(node)]
    halves = {node.outputs[0]: node.outputs[0] for node in trunk}
    for node in trunk:
        for position, value in enumerate(node.inputs):
            if value is None:
                continue
            if value not in halves:
                halves[value] = _half(graph, value)
            node.replace_input_with(position, halves[value])
    for node in trunk:
        value = node.outputs[0]
        value.dtype = ir.DataType.FLOAT16
        readers = [use for use in value.uses() if use.node not in trunk]
        single = _cast(graph, value, ir.DataType.FLOAT) if readers else value
        for use in readers:
            use.node.replace_input_with(use.idx, single)
    graph.sort()
    tidy(converted)
    return bytes(ir.serde.serialize_model(converted).SerializeToString())


def _is_trunk(node: ir.Node) -> bool:
    """Whether a node computes a feature map (N, C, *S) within float16's range; squares may exceed it."""
    value = node.outputs[0]
    if node.op_type == "Mul" and node.inputs[0] is node.inputs[1]:
        return False
    inside = value.dtype == ir.DataType.FLOAT and not value.is_graph_output()
    return node.op_type in _TRUNK and inside and len(dims(value)) >= 4


def _half(graph: ir.Graph, value: ir.Value) -> ir.Value:
    numbers = constant(value)
    if numbers is None:
        return _cast(graph, value, ir.DataType.FLOAT16)
    return add_constant(graph, f"{value.name}.half", numbers.astype(np.float16))


def _cast(graph: ir.Graph, value: ir.Value, dtype: ir.DataType) -> ir.Value:
    node = ir.node("Cast", [value], {"to": dtype})
    cast = node.outputs[0]
    cast.name, cast.shape, cast.dtype = f"{value.name}.{dtype.name}", value.shape, dtype
    graph.append(node)
    return cast
