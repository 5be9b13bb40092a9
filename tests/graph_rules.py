"""What a graph must keep to so that CUDA can capture it and TensorRT can take it whole."""

from __future__ import annotations

import onnx
from onnx import TensorProto

CONCAT_INPUTS = 32  # ONNX Runtime captures no Concat of more
_INDEX_ARITHMETIC = {"Shape", "Range", "Size", "NonZero"}  # ONNX Runtime leaves it to the CPU


def broken_rules(model: onnx.ModelProto) -> list[str]:
    """One line for each node that breaks a rule."""
    (port,) = model.graph.input
    assert port.type.tensor_type.elem_type == TensorProto.UINT8
    broken = []
    for node in model.graph.node:
        if node.op_type == "Concat" and len(node.input) > CONCAT_INPUTS:
            broken.append(f"Concat of {len(node.input)} inputs")
        if port.name in node.input and node.op_type != "Cast":
            broken.append(f"{node.op_type} of uint8")
        if node.op_type in _INDEX_ARITHMETIC:
            broken.append(node.op_type)
    return broken
