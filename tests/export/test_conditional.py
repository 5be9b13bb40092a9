"""The conditional form on its way to a bundle: its BatchNorms fold away, and drift and variants find its layers."""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx
import pytest

from abnn_serve.export.bundle import export_bundle
from abnn_serve.lab.data.dataset import ImageData
from abnn_serve.runtime.drift import DriftMeter
from abnn_serve.runtime.session import Session
from abnn_serve.spec import Labels
from tests.export.families import expected_drift, untrained_run


@pytest.fixture(scope="module", params=["", "-silu"])
def run(request, tmp_path_factory):
    networks = [f"{name}{request.param}" for name in ("resnet10-w4", "resnet8s-w4")]
    return untrained_run(*networks, 32, tmp_path_factory.mktemp("runs") / "conditional", "conditional")


@pytest.fixture(scope="module")
def data():
    pixels = np.random.default_rng(1).integers(0, 256, (32, 32, 32, 3), dtype=np.uint8)
    scale = np.linspace(0.2, 1, 32).reshape(32, 1, 1, 1)  # noise of one contrast would have one statistic
    labels = Labels(names=tuple("0123456789"))
    return ImageData(
        source="noise", images=(pixels * scale).astype(np.uint8), labels=np.zeros(32, np.int64), classes=labels
    )


@pytest.fixture(scope="module")
def bundle(run, data, tmp_path_factory):
    out = tmp_path_factory.mktemp("bundles") / "conditional"
    return export_bundle(run, out, data, precisions=("fp32", "int8", "fp16"), calibration=data, allow_loss=True)


def test_the_graph_normalises_nothing_and_gives_torchs_logits(bundle):
    kinds = Counter(node.op_type for node in onnx.load_from_string(bundle.read("model.onnx")).graph.node)
    assert not {"InstanceNormalization", "BatchNormalization", "ReduceMean"} & kinds.keys()
    assert kinds["GlobalAveragePool"] == 2 * len({pair.substitute for pair in bundle.manifest.pairs})
    assert bundle.manifest.parity.max_error <= 1e-4


def test_drift_is_that_of_what_the_adaptive_layers_take(bundle, run, data):
    _, drift = DriftMeter(Session(bundle, "cpu", threads=1)).run(data.images)
    np.testing.assert_allclose(drift, expected_drift(run.network(), data.images), rtol=2e-2)


def test_half_precision_scales_feature_maps_and_takes_their_statistics_in_float32(bundle):
    graph = onnx.shape_inference.infer_shapes(onnx.load_from_string(bundle.read("model.fp16.onnx"))).graph
    types = {value.name: value.type.tensor_type for value in graph.value_info}
    maps = {value for value, kind in types.items() if len(kind.shape.dim) == 4}
    products = [node for node in graph.node if node.op_type == "Mul" and node.output[0] in maps]
    assert {types[node.output[0]].elem_type for node in products} == {onnx.TensorProto.FLOAT16}
    assert not [node for node in products if node.input[0] == node.input[1]]
    statistics = [node for node in graph.node if node.op_type == "LayerNormalization"]
    assert {a.i for node in statistics for a in node.attribute if a.name == "stash_type"} <= {onnx.TensorProto.FLOAT}
    assert {types[node.output[1]].elem_type for node in statistics} == {onnx.TensorProto.FLOAT}


@pytest.mark.parametrize("precision", ["fp32", "int8", "fp16"])
def test_an_answer_does_not_depend_on_its_neighbours(bundle, data, precision):
    session = Session(bundle, "cpu", precision=precision)
    alone, together = session.run(data.images[:1]), session.run(data.images[:9])[:1]
    np.testing.assert_allclose(together, alone, atol=1e-5)
