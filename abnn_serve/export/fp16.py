"""Converts the fused graph to half precision, for CUDA: the convolutions and the operations between them.

Codes and maps stay float32. Statistics are summed in float32, because a sum over a feature map can exceed float16's
65,504; so are those of InstanceNormalization, inside its kernel.
"""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir

from abnn_serve.runtime.rewrites.join_maps import join_maps
from abnn_serve.runtime.rewrites.statistics import read_maps_once
from abnn_serve.runtime.rewrites.values import add_constant, constant, dims, tidy

_TRUNK = ("Conv", "Relu", "Add", "MaxPool", "Mul", "InstanceNormalization")
_MOVES = ("Unsqueeze", "Reshape", "Split")  # these compute nothing, so they may follow a cast instead of preceding it


def to_fp16(model: bytes) -> bytes:
    """Convert the trunk to float16; inputs and outputs keep their types.

    Args:
        model: serialised graph, from `export_stages`.
    """
    joined = ir.serde.deserialize_model(onnx.shape_inference.infer_shapes(onnx.load_from_string(model)))
    join_maps(joined, any_form=True)
    converted = ir.serde.deserialize_model(onnx.shape_inference.infer_shapes(ir.serde.serialize_model(joined)))
    graph = converted.graph
    trunk = _trunk(graph)
    halves = {value: value for node in trunk for value in node.outputs}
    for node in trunk:
        for position, value in enumerate(node.inputs):
            if value is None or value.dtype != ir.DataType.FLOAT:
                continue
            if value not in halves:
                halves[value] = _half(graph, value)
            node.replace_input_with(position, halves[value])
    for value in [value for node in trunk for value in node.outputs]:
        value.dtype = ir.DataType.FLOAT16
        readers = [use for use in value.uses() if use.node not in trunk]
        single = _cast(graph, value, ir.DataType.FLOAT) if readers else value
        for use in readers:
            use.node.replace_input_with(use.idx, single)
    graph.sort()
    read_maps_once(converted)
    tidy(converted)
    return bytes(ir.serde.serialize_model(converted).SerializeToString())


def _trunk(graph: ir.Graph) -> dict[ir.Node, None]:
    """The nodes to convert: those that compute feature maps, and those that only move values to them."""
    trunk = dict.fromkeys(node for node in graph if _is_trunk(node))
    for node in reversed(graph):
        uses = [use for value in node.outputs for use in value.uses()]
        is_output = any(value.is_graph_output() for value in node.outputs)
        if node.op_type in _MOVES and uses and not is_output and all(use.node in trunk for use in uses):
            trunk[node] = None
    return trunk


def _is_trunk(node: ir.Node) -> bool:
    """Whether a node computes a feature map (N, C, *S) within float16's range; squares may exceed it."""
    value, normalises = node.outputs[0], node.op_type == "InstanceNormalization"  # of one sample with N C channels
    if node.op_type == "Mul" and node.inputs[0] is node.inputs[1]:
        return False
    shape, inside = dims(value), value.dtype == ir.DataType.FLOAT and not value.is_graph_output()
    return node.op_type in _TRUNK and inside and len(shape) >= 4 and (normalises or shape[0] is None)


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
