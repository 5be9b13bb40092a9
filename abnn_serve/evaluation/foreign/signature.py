"""What an ONNX classifier takes and returns, read from its graph."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort

from abnn_serve.errors import ConfigError, one_line
from abnn_serve.evaluation.foreign.graph import softmax_before
from abnn_serve.evaluation.foreign.layout import Layout, image_layout

_DTYPES = {"tensor(uint8)": "uint8", "tensor(float)": "float32", "tensor(float16)": "float16"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Signature:
    """Input and output of a classifier.

    Attributes:
        input, output: names in the graph.
        dtype: of the input: uint8, float32 or float16.
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
