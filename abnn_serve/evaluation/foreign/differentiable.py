"""An ONNX graph rewritten so that torch runs it in floats: no final Softmax, quantisation as rounding, no casts."""

from __future__ import annotations

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

STEPS = ("Round", "Floor", "Ceil", "Sign")  # operators whose gradient is zero
_FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16)


def differentiable(model: onnx.ModelProto, output: str) -> onnx.ModelProto:
    """A copy of the graph with the one output `output`.

    QuantizeLinear with the DequantizeLinear behind it becomes Div, Round, Clip and Mul of floats, the same function.
    DequantizeLinear is computed for weights.
    Casts of floats and of the input to float are left out, so that the graph also runs in float64.
    """
    model = onnx.ModelProto.FromString(model.SerializeToString())
    graph = model.graph
    weights = {tensor.name: tensor for tensor in graph.initializer}
    inputs = {port.name for port in graph.input}
    floats = _floats(model)
    kept, renamed, added = [], {}, []
    for node in graph.node:
        source = node.input[0] if node.input else ""
        if node.op_type == "DequantizeLinear" and source in weights:
            added.append(numpy_helper.from_array(_dequantised(node, weights), node.output[0]))
        elif node.op_type == "QuantizeLinear" and (levels := _levels(node, weights)) is not None:
            to = node.output[0]
            names = [f"{to}_{end}" for end in ("low", "high", "scale")]
            added += [numpy_helper.from_array(value, name) for value, name in zip(levels, names, strict=True)]
            kept += _rounding(source, to, *names)
        elif (node.op_type in ("QuantizeLinear", "DequantizeLinear") and source not in inputs) or (
            node.op_type == "Cast" and source in inputs | floats and _attribute(node, "to") in _FLOATS
        ):
            renamed[node.output[0]] = source
        else:
            kept.append(node)
    for node in kept:
        for position, name in enumerate(node.input):
            node.input[position] = _resolved(name, renamed)
    output = _resolved(output, renamed)
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
    return model


def operators(model: onnx.ModelProto) -> set[str]:
    """Names of the graph's operators, with the domain where it is not ONNX's own."""
    return {f"{node.domain}.{node.op_type}" if node.domain else node.op_type for node in model.graph.node}


def _floats(model: onnx.ModelProto) -> set[str]:
    """Names of inner values that are known to be floats."""
    try:
        values = onnx.shape_inference.infer_shapes(model).graph.value_info
    except onnx.shape_inference.InferenceError:
        return set()
    return {value.name for value in values if value.type.tensor_type.elem_type in _FLOATS}


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


def _rounding(source: str, to: str, low: str, high: str, scale: str) -> list[onnx.NodeProto]:
    return [
        helper.make_node("Div", [source, scale], [f"{to}_scaled"]),
        helper.make_node("Round", [f"{to}_scaled"], [f"{to}_rounded"]),
        helper.make_node("Clip", [f"{to}_rounded", low, high], [f"{to}_clipped"]),
        helper.make_node("Mul", [f"{to}_clipped", scale], [to]),
    ]


def _levels(node: onnx.NodeProto, weights: dict[str, onnx.TensorProto]) -> tuple[NDArray[np.float32], ...] | None:
    """Lowest and highest level of a QuantizeLinear less its zero point, and its scale; None if it has several."""
    if not all(name in weights for name in node.input[1:]):
        return None
    scale = numpy_helper.to_array(weights[node.input[1]])
    zero = numpy_helper.to_array(weights[node.input[2]]) if len(node.input) > 2 else np.zeros((), np.uint8)
    if scale.size != 1 or zero.dtype.kind not in "iu":
        return None
    ends = np.iinfo(zero.dtype)
    low, high = (np.asarray(end - int(zero.reshape(())), np.float32) for end in (ends.min, ends.max))
    return low, high, scale.astype(np.float32).reshape(())


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
