"""Read an ONNX file, and find the Softmax at its end."""

from __future__ import annotations

from pathlib import Path

import onnx
from google.protobuf.message import DecodeError
from onnx.checker import ValidationError
from onnx.external_data_helper import ExternalDataInfo, uses_external_data

from abnn_serve.errors import ConfigError, one_line


def load_graph(path: Path) -> onnx.ModelProto:
    """Read an ONNX file with its external data; ConfigError if it is not one, or if data is missing or too short."""
    if not path.is_file():
        raise ConfigError(f"{path}: no such file; give a run, a bundle or an ONNX file")
    try:
        model = onnx.load(str(path), load_external_data=False)
    except DecodeError as error:
        raise ConfigError(f"{path} is not an ONNX file ({one_line(error)})") from None
    if not model.graph.node:
        raise ConfigError(f"{path} is not an ONNX file: it has no operators")
    for tensor in model.graph.initializer:
        if uses_external_data(tensor):
            location = ExternalDataInfo(tensor).location
            if not (path.parent / location).is_file():
                raise ConfigError(f"{path} keeps its weights in {location}, which is missing; put it beside the file")
    try:
        return onnx.load(str(path))
    except (OSError, ValueError, ValidationError) as error:
        raise ConfigError(
            f"cannot read the weights of {path}: {one_line(error)}; put the whole data file beside it"
        ) from None


def softmax_before(model: onnx.ModelProto, output: str) -> str | None:
    """Name of the tensor that a final Softmax turns into `output`; None if the output is of another operator."""
    producers = {name: node for node in model.graph.node for name in node.output}
    node = producers.get(output)
    while node is not None and node.op_type in ("Identity", "Cast"):
        node = producers.get(node.input[0])
    return node.input[0] if node is not None and node.op_type == "Softmax" else None
