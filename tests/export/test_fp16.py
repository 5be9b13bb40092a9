"""The half-precision graph: what is cast, how statistics are read, and that the logits stay."""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from abnn_serve.bundle.store import load_bundle
from abnn_serve.export.fp16 import to_fp16
from abnn_serve.export.graph import export_graph
from abnn_serve.runtime.engine import open_graph
from abnn_serve.runtime.rewrites.join_maps import join_maps
from abnn_serve.spec import InputSpec
from tests.cuda_stub.process import ROOT
from tests.export.families import untrained_run

NETWORKS = ("resnet8s-w4", "resnet8s-w4")
SIZE = {"height": 16, "width": 16}
HALF, SINGLE = onnx.TensorProto.FLOAT16, onnx.TensorProto.FLOAT
CASTS = {"cifar10-abnn-robust": 12, "cifar10-abnn": 12, "motions-abnn": 6}


def _kinds(model: ir.Model) -> Counter:
    return Counter(node.op_type for node in model.graph)


def run(model: bytes, samples: np.ndarray) -> np.ndarray:
    session = open_graph(model, 1)
    return session.run(None, {session.get_inputs()[0].name: samples})[0]


@pytest.fixture(scope="module", params=CASTS)
def shipped(request):
    """A shipped bundle and its graph in half precision: conditional, linear, and conditional of clips."""
    bundle = load_bundle(ROOT / "models" / request.param)
    return bundle, to_fp16(bundle.read("model.onnx"))


def test_logits_stay_within_the_tolerance_of_golden_vectors_and_do_not_depend_on_the_batch(shipped):
    bundle, model = shipped
    together = run(model, bundle.golden.inputs)
    assert np.abs(together - bundle.golden.logits).max() < 3e-3
    rounding = 1e-5 if bundle.golden.inputs.ndim == 5 else 0  # a clip alone is summed in another order, in float32
    np.testing.assert_allclose(run(model, bundle.golden.inputs[1:2]), together[1:2], rtol=0, atol=rounding)


def test_each_tap_is_read_by_one_kernel_and_the_maps_are_half(shipped):
    bundle, model = shipped
    proto = onnx.shape_inference.infer_shapes(onnx.load_from_string(model))
    onnx.checker.check_model(proto)
    graph = proto.graph
    types = {value.name: value.type.tensor_type.elem_type for value in graph.value_info}
    kinds = Counter(node.op_type for node in graph.node)
    single = onnx.load_from_string(bundle.read("model.onnx")).graph
    pooled = Counter(node.op_type for node in single.node)["GlobalAveragePool"]
    assert 2 * kinds["LayerNormalization"] == pooled
    assert kinds["GlobalAveragePool"] == 0
    assert kinds["Cast"] <= CASTS[bundle.manifest.name]
    for node in graph.node:
        if node.op_type in ("Conv", "InstanceNormalization", "MaxPool"):
            assert types[node.output[0]] == HALF
        if node.op_type == "LayerNormalization":
            assert [types[name] for name in node.output[1:]] == [SINGLE, SINGLE]
        if node.op_type in ("Gemm", "MatMul") and node.output[0] in types:
            assert types[node.output[0]] == SINGLE


def test_maps_of_the_conditional_form_are_joined_on_request_without_changing_the_logits(tmp_path):
    model = export_graph(untrained_run(*NETWORKS, 16, tmp_path / "run", "conditional").network(), InputSpec(**SIZE))
    samples = np.random.default_rng(0).integers(0, 256, (3, 16, 16, 3), dtype=np.uint8)
    joined = ir.serde.deserialize_model(onnx.load_from_string(model))
    join_maps(joined)
    assert _kinds(joined)["MatMul"] == 0
    join_maps(joined, any_form=True)
    assert _kinds(joined)["MatMul"] > 0
    logits = run(ir.serde.serialize_model(joined).SerializeToString(), samples)
    np.testing.assert_allclose(logits, run(model, samples), atol=1e-5)
    assert np.abs(run(to_fp16(model), samples) - logits).max() < 0.02


def test_statistics_of_an_unusual_row_are_left_in_single_precision():
    bundle = load_bundle(ROOT / "models" / "cifar10-abnn")
    proto = onnx.load_from_string(bundle.read("model.onnx"))
    squares = [node for node in proto.graph.node if node.op_type == "Mul" and node.input[0] == node.input[1]]
    pooled = {node.input[0] for node in proto.graph.node if node.op_type == "GlobalAveragePool"}
    square = next(node for node in squares if node.output[0] in pooled)
    square.op_type = "Add"
    kinds = Counter(node.op_type for node in onnx.load_from_string(to_fp16(proto.SerializeToString())).graph.node)
    assert kinds["LayerNormalization"] == 0
    assert kinds["GlobalAveragePool"] > 0
