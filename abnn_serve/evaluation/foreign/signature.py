"""What an ONNX classifier takes and returns, read from its graph."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
import onnxruntime as ort
from google.protobuf.message import DecodeError
from onnx.checker import ValidationError
from onnx.external_data_helper import ExternalDataInfo, uses_external_data

from abnn_serve.errors import ConfigError, one_line

Layout = Literal["NCHW", "NHWC", "flat"]

_DTYPES = {"tensor(uint8)": "uint8", "tensor(float)": "float32", "tensor(float16)": "float16"}
_SIDES = range(16, 513)


@dataclass(frozen=True, slots=True, kw_only=True)
class Signature:
    """Input and output of a classifier.

    Attributes:
        input, output: names in the graph.
        dtype: of the input: uint8, float32 or float16.
        layout: `flat` is (N, height * width * 3), rows first and colours last.
        batch: samples per run; None if any number works. A graph with an open batch may still run single samples only.
        height, width: in pixels.
        classes: number of classes.
        is_probability: the output is that of a Softmax.
    """

    input: str
    output: str
    dtype: str
    layout: Layout
    batch: int | None
    height: int
    width: int
    classes: int
    is_probability: bool


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


def read_signature(
    path: Path, model: onnx.ModelProto, session: ort.InferenceSession, output: str | None, size: tuple[int, int] | None
) -> Signature:
    """Find the image input and the output of class scores, and run the graph once on black images.

    Args:
        path: named in errors.
        model: the graph.
        session: the same in ONNX Runtime.
        output: name of the output, where there are several.
        size: height and width, where the graph leaves them open.

    Raises:
        ConfigError: two inputs, an input that is no image, an output that is not one score per class, or a graph that
            does not run on images of this size.
    """
    inputs = session.get_inputs()
    if len(inputs) != 1:
        names = ", ".join(port.name for port in inputs)
        raise ConfigError(
            f"{path} has {len(inputs)} inputs ({names}), expected one image; export a graph with one input"
        )
    port = inputs[0]
    if port.type not in _DTYPES:
        raise ConfigError(f"{path} has the input {port.name} of {port.type}, expected uint8, float or float16")
    layout, (height, width) = image_layout(str(path), port.name, tuple(port.shape), size)
    name = _scores(path, session, output)
    batch, classes = _run_once(path, session, name, layout, (height, width))
    return Signature(
        input=port.name,
        output=name,
        dtype=_DTYPES[port.type],
        layout=layout,
        batch=batch,
        height=height,
        width=width,
        classes=classes,
        is_probability=softmax_before(model, name) is not None,
    )


def image_layout(
    model: str, name: str, shape: tuple[Any, ...], size: tuple[int, int] | None
) -> tuple[Layout, tuple[int, int]]:
    """How an input holds images, and their height and width in pixels.

    Args:
        model: named in errors.
        name: of the input.
        shape: of the input with its batch; a side that is left open is no positive integer.
        size: height and width, where the shape leaves them open.

    Raises:
        ConfigError: the input is no image, or its size is open and not given.
    """
    shown = f"({', '.join(map(str, shape))})"
    layout: Layout
    if len(shape) == 4 and shape[1] == 3:
        layout, sides = "NCHW", shape[2:]
    elif len(shape) == 4 and shape[3] == 3:
        layout, sides = "NHWC", shape[1:3]
    elif len(shape) == 2 and (size or _square(shape[1])):
        layout, sides = "flat", size or (_square(shape[1]),) * 2
    else:
        raise ConfigError(
            f"{model} has the input {name} of shape {shown}, expected RGB images (N, 3, H, W) or (N, H, W, 3)"
        )
    height, width = (
        side if isinstance(side, int) and side > 0 else given
        for side, given in zip(sides, size or (None, None), strict=True)
    )
    if height is None or width is None:
        raise ConfigError(f"{model} leaves its input size open, {shown}; give it with --size, such as --size 224")
    if size and size != (height, width):
        raise ConfigError(f"{model} takes images of {height}x{width}, but --size is {size[0]}x{size[1]}; omit --size")
    if height not in _SIDES or width not in _SIDES:
        raise ConfigError(f"{model} takes images of {height}x{width}, expected 16 to 512 pixels a side")
    return layout, (height, width)


def _square(features: Any) -> int | None:
    """Side of a square RGB image of so many values; None if there is none."""
    side = round((features / 3) ** 0.5) if isinstance(features, int) and features > 0 else 0
    return side if side and side * side * 3 == features else None


def _scores(path: Path, session: ort.InferenceSession, output: str | None) -> str:
    """Name of the output of class scores."""
    outputs = session.get_outputs()
    names = ", ".join(port.name for port in outputs)
    if output is not None and output not in [port.name for port in outputs]:
        raise ConfigError(f"{path} has no output named {output!r}, expected one of {names}")
    fit = [
        port
        for port in outputs
        if output in (None, port.name) and port.type in ("tensor(float)", "tensor(float16)") and len(port.shape) == 2
    ]
    if not fit:
        raise ConfigError(f"{path} has the outputs {names}, expected float scores of shape (N, classes)")
    if len(fit) > 1:
        raise ConfigError(f"{path} has several outputs ({names}); choose one with --output NAME")
    return str(fit[0].name)


def _run_once(
    path: Path, session: ort.InferenceSession, output: str, layout: Layout, size: tuple[int, int]
) -> tuple[int | None, int]:
    """Samples per run, None if any number works, and the number of classes; found by running the graph."""
    port = session.get_inputs()[0]
    shape = {"NCHW": (3, *size), "NHWC": (*size, 3), "flat": (3 * size[0] * size[1],)}[layout]
    fixed = port.shape[0] if isinstance(port.shape[0], int) else None
    problem = ""
    for count in (fixed,) if fixed else (2, 1):
        try:
            scores = session.run([output], {port.name: np.zeros((count, *shape), _DTYPES[port.type])})[0]
        except Exception as error:  # ONNX Runtime's exceptions have no common base class
            problem = one_line(error)
            continue
        if scores.ndim != 2 or len(scores) != count:
            problem = f"{output} has shape {scores.shape} for {count} images"
            continue
        if scores.shape[1] == 1:
            raise ConfigError(f"{path}: output {output} has one score, expected one for each of at least two classes")
        return fixed or (None if count == 2 else 1), int(scores.shape[1])
    raise ConfigError(
        f"ONNX Runtime cannot run {path} on images of {size[0]}x{size[1]}: {problem}; is this the size that it was "
        "made for? give it with --size"
    )


def softmax_before(model: onnx.ModelProto, output: str) -> str | None:
    """Name of the tensor that a final Softmax turns into `output`; None if the output is of another operator."""
    producers = {name: node for node in model.graph.node for name in node.output}
    node = producers.get(output)
    while node is not None and node.op_type in ("Identity", "Cast"):
        node = producers.get(node.input[0])
    return node.input[0] if node is not None and node.op_type == "Softmax" else None
