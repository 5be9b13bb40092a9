"""Graphs that CUDA can capture: pass by pass, and as exported."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto
from torch import nn

from abnn_serve.bundle.store import load_bundle
from abnn_serve.export.graph import export_graph
from abnn_serve.export.passes.join_codes import join_codes
from abnn_serve.export.passes.statistics import compute_statistics_in_one_pass
from abnn_serve.export.passes.strides import drop_identity_gathers
from abnn_serve.lab.abnn.network import PixelNetwork
from abnn_serve.spec import InputSpec
from tests.cuda_stub.process import ROOT
from tests.export.test_passes import check, kinds, model, noise, taps
from tests.graph_rules import CONCAT_INPUTS, broken_rules


def test_many_codes_are_joined_by_small_concats():
    built = taps(20)
    compute_statistics_in_one_pass(built)
    check(join_codes, built, x0=noise(2, 4, 5, 5))
    widths = sorted(len(node.inputs) for node in built.graph if node.op_type == "Concat")
    assert max(widths) <= CONCAT_INPUTS
    assert kinds(built)["Split"] == 1


def strided(offsets: np.ndarray, dimension: int = 0):
    """y, (N, 4, 1, 1), gathered at row * 4 + offsets."""
    return model(
        f"""g (float[N, 4, 1, 1] x) => (float[N, 4, 1, 1] out) <int64[1] flat = {{-1}}, int64[3] axes = {{1, 2, 3}}> {{
        y = Relu(x)
        rows = Reshape(y, flat)
        shape = Shape<start = {dimension}, end = {dimension + 1}>(x)
        batch = Squeeze(shape)
        range = Range(zero, batch, one)
        first = Mul(range, four)
        column = Unsqueeze(first, axes)
        index = Add(column, offsets)
        z = Gather<axis = 0>(rows, index)
        out = Neg(z) }}""",
        offsets=offsets.reshape(1, 4, 1, 1),
        zero=np.int64(0),
        one=np.int64(1),
        four=np.int64(4),
    )


def test_a_gather_of_everything_in_its_order_is_dropped():
    built = strided(np.arange(4))
    check(drop_identity_gathers, built, x=noise(3, 4, 1, 1))
    assert kinds(built) == {"Relu": 1, "Neg": 1}


@pytest.mark.parametrize("offsets", [np.arange(4)[::-1].copy(), np.zeros(4, np.int64)])
def test_a_gather_in_another_order_is_left_alone(offsets):
    built = strided(offsets)
    check(drop_identity_gathers, built, x=noise(3, 4, 1, 1))
    assert kinds(built)["Gather"] == 1


def test_a_gather_of_as_many_rows_as_channels_is_left_alone():
    built = strided(np.arange(4), dimension=1)
    drop_identity_gathers(built)
    assert kinds(built)["Gather"] == 1


@pytest.mark.parametrize(
    "file", sorted((ROOT / "models").glob("*/model*.onnx")), ids=lambda file: str(file.parent.name)
)
def test_a_shipped_graph_keeps_to_the_rules(file):
    answer = load_bundle(file.parent).manifest.answer
    is_noisy = answer is not None and answer.noise is not None  # noise is added before the graph
    assert broken_rules(onnx.load(file), TensorProto.FLOAT if is_noisy else TensorProto.UINT8) == []


def test_an_exported_network_keeps_to_the_rules():
    body = nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
    data = export_graph(PixelNetwork(body), InputSpec(height=8, width=8))
    assert broken_rules(onnx.load_from_string(data)) == []
