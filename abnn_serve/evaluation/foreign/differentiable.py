"""An ONNX graph rewritten so that torch can differentiate it: no final Softmax, no quantisation, no float casts."""

from __future__ import annotations

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

_FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16)


def differentiable(model: onnx.ModelProto, output: str) -> tuple[onnx.ModelProto, bool]:
    """A copy of the graph with the one output `output`, and whether quantisation was removed.

    QuantizeLinear keeps its range and loses its rounding (a straight-through estimate); its range may stand for a Relu.
    DequantizeLinear is computed for weights.
    A cast of the input to float is left out, so that the graph also runs in float64.
    """
    model = onnx.ModelProto.FromString(model.SerializeToString())
    graph = model.graph
    weights = {tensor.name: tensor for tensor in graph.initializer}
    inputs = {port.name for port in graph.input}
    kept, renamed, added = [], {}, []
    for node in graph.node:
        source = node.input[0] if node.input else ""
        if node.op_type == "DequantizeLinear" and source in weights:
            added.append(numpy_helper.from_array(_dequantised(node, weights), node.output[0]))
        elif node.op_type == "QuantizeLinear" and (limits := _range(node, weights)) is not None:
            names = [f"{node.output[0]}_{end}" for end in ("low", "high")]
            added += [numpy_helper.from_array(limit, name) for limit, name in zip(limits, names, strict=True)]
            kept.append(helper.make_node("Clip", [source, *names], [node.output[0]]))
        elif (node.op_type in ("QuantizeLinear", "DequantizeLinear") and source not in inputs) or (
            node.op_type == "Cast" and source in inputs and _attribute(node, "to") in _FLOATS
        ):
            renamed[node.output[0]] = source
        else:
            kept.append(node)
    for node in kept:
        for position, name in enumerate(node.input):
            node.input[position] = _resolved(name, renamed)
    output = _resolved(output, renamed)
    quantised = any(node.op_type == "QuantizeLinear" for node in graph.node)
    needed = _needed(kept, output)
    del graph.node[:], graph.output[:], graph.value_info[:]
    graph.node.extend(node for node in kept if id(node) in needed)
    graph.initializer.extend(added)
    graph.output.append(helper.make_tensor_value_info(output, TensorProto.FLOAT, None))
    for port in graph.input:
        port.type.tensor_type.elem_type = TensorProto.FLOAT
    used = {name for node in graph.node for name in node.input}
    unused = [tensor for tensor in graph.initializer if tensor.name not in used]
    for tensor in unused:
        graph.initializer.remove(tensor)
    return model, quantised


def operators(model: onnx.ModelProto) -> set[str]:
    """Names of the graph's operators, with the domain where it is not ONNX's own."""
    return {f"{node.domain}.{node.op_type}" if node.domain else node.op_type for node in model.graph.node}


def _attribute(node: onnx.NodeProto, name: str, default: int = 0) -> int:
    return next((int(part.i) for part in node.attribute if part.name == name), default)


def _resolved(name: str, renamed: dict[str, str]) -> str:
    while name in renamed:
        name = renamed[name]
    return name


def _needed(nodes: list[onnx.NodeProto], output: str) -> set[int]:
    """Identities of the nodes that `output` depends on."""
    producers = {name: node for node in nodes for name in node.output}
    needed: set[int] = set()
    waiting = [output]
    while waiting:
        node = producers.get(waiting.pop())
        if node is not None and id(node) not in needed:
            needed.add(id(node))
            waiting.extend(node.input)
    return needed


def _range(
    node: onnx.NodeProto, weights: dict[str, onnx.TensorProto]
) -> tuple[NDArray[np.float32], NDArray[np.float32]] | None:
    """Smallest and largest value that a QuantizeLinear of one scale can represent; None if it has several."""
    if not all(name in weights for name in node.input[1:]):
        return None
    scale = numpy_helper.to_array(weights[node.input[1]])
    zero = numpy_helper.to_array(weights[node.input[2]]) if len(node.input) > 2 else np.zeros((), np.uint8)
    if scale.size != 1 or zero.dtype.kind not in "iu":
        return None
    ends = np.iinfo(zero.dtype)
    low, high = (
        (np.float32(end) - zero.astype(np.float32)).reshape(()) * scale.reshape(()) for end in (ends.min, ends.max)
    )
    return low.astype(np.float32), high.astype(np.float32)


def _dequantised(node: onnx.NodeProto, weights: dict[str, onnx.TensorProto]) -> NDArray[np.float32]:
    values, scale = (numpy_helper.to_array(weights[name]) for name in node.input[:2])
    has_zero = len(node.input) > 2 and node.input[2] in weights
    zero = numpy_helper.to_array(weights[node.input[2]]) if has_zero else np.zeros_like(scale)
    if scale.ndim == 1 and scale.size > 1:
        shape = [1] * values.ndim
        shape[_attribute(node, "axis", 1)] = -1
        scale, zero = scale.reshape(shape), zero.reshape(shape)
    elif scale.size == 1:
        scale, zero = scale.reshape(()), zero.reshape(())
    floats: NDArray[np.float32] = (values.astype(np.float32) - zero.astype(np.float32)) * scale.astype(np.float32)
    return floats
