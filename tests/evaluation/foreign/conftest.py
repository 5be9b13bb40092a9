"""Small ONNX classifiers with the weights of a run, in every form that people export."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from abnn_serve.evaluation.foreign.classifier import open_classifier
from abnn_serve.evaluation.foreign.preprocess import read_preprocess
from tests.drawing import png, write_parquet

CLASSES = 3


def small_graph(
    path: Path,
    *,
    layout: str = "NCHW",
    dtype: int = TensorProto.FLOAT,
    batch: int | str = "N",
    softmax: bool = False,
    inner_cast: bool = False,
    extra_output: bool = False,
    operator: str | None = None,
    opset: int = 20,
    size: int | str = 32,
) -> Path:
    """Write a classifier by mean colour and position: a strided convolution, Relu, Flatten and Gemm."""
    rng = np.random.default_rng(3)
    cell = size // 4 if isinstance(size, int) else 8
    weights = {
        "conv": rng.normal(size=(6, 3, cell, cell)) * 8 / cell**2,
        "gemm": rng.normal(size=(6 * 16, CLASSES)),
        "bias": np.zeros(CLASSES),
    }
    shape = {"NCHW": [batch, 3, size, size], "NHWC": [batch, size, size, 3], "flat": [batch, 3072]}[layout]
    nodes, at = [], "pixels"
    if dtype != TensorProto.FLOAT:
        nodes.append(helper.make_node("Cast", [at], ["floats"], to=TensorProto.FLOAT))
        at = "floats"
    if layout == "flat":
        nodes.append(helper.make_node("Reshape", [at, "image"], ["shaped"]))
        at = "shaped"
    if layout != "NCHW":
        nodes.append(helper.make_node("Transpose", [at], ["planes"], perm=[0, 3, 1, 2]))
        at = "planes"
    nodes += [
        helper.make_node("Conv", [at, "conv"], ["features"], strides=[cell, cell]),
        helper.make_node(operator or "Relu", ["features"], ["positive"]),
        helper.make_node("Flatten", ["positive"], ["flat"]),
        helper.make_node("Gemm", ["flat", "gemm", "bias"], ["logits"]),
    ]
    if inner_cast:  # as in Keras' exports
        nodes.insert(-1, helper.make_node("Cast", ["flat"], ["cast"], to=TensorProto.FLOAT))
        nodes[-1].input[0] = "cast"
    outputs = ["logits"]
    if softmax:
        nodes.append(helper.make_node("Softmax", ["logits"], ["probabilities"], axis=1))
        outputs = ["probabilities"]
    if extra_output:
        outputs.append("logits" if softmax else "flat")
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("pixels", dtype, shape)],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, [batch, None]) for name in outputs],
        [numpy_helper.from_array(value.astype(np.float32), name) for name, value in weights.items()]
        + [numpy_helper.from_array(np.array([-1, 32, 32, 3]), "image")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9)
    onnx.save(model, str(path))
    return path


@pytest.fixture
def labelled(tmp_path) -> tuple[Path, str]:
    """A classifier that expects `cifar10` preprocessing, and images labelled with its own answers, as Parquet."""
    return label(small_graph(tmp_path / "small.onnx", softmax=True), tmp_path / "data.parquet", size=32, count=32)


def label(path: Path, data: Path, *, size: int, count: int) -> tuple[Path, str]:
    """Write images of `size` px labelled with the answers of a classifier that expects `cifar10`, as Parquet."""
    coarse = np.random.default_rng(5).integers(0, 256, (count, 4, 4, 3), dtype=np.uint8)
    images = np.stack([np.asarray(Image.fromarray(c).resize((size, size), Image.Resampling.BICUBIC)) for c in coarse])
    labels = open_classifier(path, read_preprocess("cifar10")).logits(images).argmax(axis=1)
    write_parquet(data, [png(Image.fromarray(image)) for image in images], labels)
    return path, str(data)
