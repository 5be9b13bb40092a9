"""Rules for a graph that CUDA can capture and TensorRT can run without other providers."""

from __future__ import annotations

import onnx
from onnx import TensorProto

CONCAT_INPUTS = 32  # ONNX Runtime captures no larger Concat
_INDEX_ARITHMETIC = {"Shape", "Range", "Size", "NonZero"}  # ONNX Runtime runs these on the CPU


def broken_rules(model: onnx.ModelProto, kind: int = TensorProto.UINT8) -> list[str]:
    """One line for each node that breaks a rule; `kind` is the type that the input must have."""
    (port,) = model.graph.input
    assert port.type.tensor_type.elem_type == kind
    broken = []
    for node in model.graph.node:
        if node.op_type == "Concat" and len(node.input) > CONCAT_INPUTS:
            broken.append(f"Concat of {len(node.input)} inputs")
        if kind == TensorProto.UINT8 and port.name in node.input and node.op_type != "Cast":
            broken.append(f"{node.op_type} of uint8")
        if node.op_type in _INDEX_ARITHMETIC:
            broken.append(node.op_type)
    return broken
