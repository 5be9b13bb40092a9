"""The fused graph in half precision, for CUDA: convolutions and what lies between them.

Statistics, maps and adaptive layers that take them stay float32: a sum over a feature map leaves float16's range at
65,504.
"""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir

from abnn_serve.export.passes.rules import add_constant, constant, known, tidy

_TRUNK = ("Conv", "Relu", "Add", "MaxPool", "Mul")


def to_fp16(model: bytes) -> bytes:
    """The graph with its trunk in float16; inputs and outputs keep their types.

    Args:
        model: serialised, as `export_stages` gives it.
    """
    found = ir.serde.deserialize_model(onnx.load_from_string(model))
    graph = found.graph
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
    tidy(found)
    return bytes(ir.serde.serialize_model(found).SerializeToString())


def _is_trunk(node: ir.Node) -> bool:
    """Whether a node makes a feature map, (N, C, *S), by arithmetic that half precision serves: no square of one."""
    value = node.outputs[0]
    if node.op_type == "Mul" and node.inputs[0] is node.inputs[1]:
        return False
    inside = value.dtype == ir.DataType.FLOAT and not value.is_graph_output()
    return node.op_type in _TRUNK and inside and len(known(value)) >= 4


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
