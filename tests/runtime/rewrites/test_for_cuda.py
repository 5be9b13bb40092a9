"""The graph that a GPU opens: fewer kernels, the same logits."""

from __future__ import annotations

import builtins
from collections import Counter

import numpy as np
import onnx
import pytest

from abnn_serve.bundle.store import load_bundle
from abnn_serve.export.fp16 import to_fp16
from abnn_serve.runtime.cuda import with_fewer_kernels
from abnn_serve.runtime.engine import open_graph
from abnn_serve.runtime.rewrites.statistics import read_maps_once
from tests.cuda_stub.process import ROOT
from tests.export.test_passes import check, kinds, model, noise

BUNDLES = ("cifar10-abnn-robust", "cifar10-abnn", "motions-abnn")


def run(graph: bytes, samples: np.ndarray) -> list[np.ndarray]:
    session = open_graph(graph, 1)
    return session.run(None, {session.get_inputs()[0].name: samples})


@pytest.mark.parametrize("drift", [False, True], ids=["logits", "logits and drift"])
@pytest.mark.parametrize("name", BUNDLES)
def test_a_shipped_graph_keeps_its_outputs_within_rounding(name, drift):
    bundle = load_bundle(ROOT / "models" / name)
    graph = bundle.read("model.onnx") + (bundle.read("drift.onnx") if drift else b"")
    rewritten = with_fewer_kernels(graph)
    samples = np.random.default_rng(0).integers(0, 256, (8, *bundle.manifest.input.shape), dtype=np.uint8)
    for images in (bundle.golden.inputs, samples):
        expected, outputs = run(graph, images), run(rewritten, images)
        assert len(outputs) == 1 + drift
        for old, new in zip(expected, outputs, strict=True):
            np.testing.assert_allclose(new, old, atol=1e-5)
    alone = run(rewritten, samples[1:2])[0]
    np.testing.assert_allclose(alone, outputs[0][1:2], atol=1e-5)  # no sample sees its neighbours


@pytest.mark.parametrize("name", BUNDLES)
def test_each_statistic_of_a_shipped_graph_is_read_by_one_kernel(name):
    bundle = load_bundle(ROOT / "models" / name)
    graph = bundle.read("model.onnx") + bundle.read("drift.onnx")
    before, after = (
        Counter(node.op_type for node in onnx.load_from_string(data).graph.node)
        for data in (graph, with_fewer_kernels(graph))
    )
    assert 2 * after["LayerNormalization"] == before["GlobalAveragePool"] > 0
    assert after["GlobalAveragePool"] == 0


@pytest.mark.parametrize("convert", [with_fewer_kernels, to_fp16])
@pytest.mark.parametrize("name", ["cifar10-abnn-robust", "motions-abnn"])
def test_a_graph_that_lacks_the_shapes_of_its_values_is_rewritten_too(name, convert):
    proto = onnx.load_from_string(load_bundle(ROOT / "models" / name).read("model.onnx"))
    expected = Counter(node.op_type for node in onnx.load_from_string(convert(proto.SerializeToString())).graph.node)
    del proto.graph.value_info[:]
    found = Counter(node.op_type for node in onnx.load_from_string(convert(proto.SerializeToString())).graph.node)
    assert found == expected


def test_a_graph_without_adaptive_layers_keeps_its_nodes():
    graph = load_bundle(ROOT / "models" / "cifar10-masks").read("model.onnx")
    both = (graph, with_fewer_kernels(graph))
    before, after = (Counter(node.op_type for node in onnx.load_from_string(data).graph.node) for data in both)
    assert after == before


def test_without_onnx_ir_the_graph_opens_as_exported(monkeypatch):
    real = builtins.__import__

    def absent(name, *arguments, **keywords):
        if name == "abnn_serve.runtime.rewrites.for_cuda":
            raise ImportError("No module named 'onnx_ir'")
        return real(name, *arguments, **keywords)

    monkeypatch.setattr(builtins, "__import__", absent)
    assert with_fewer_kernels(b"a graph") == b"a graph"


def test_a_graph_that_cannot_be_rewritten_opens_as_exported_with_a_warning(caplog):
    with caplog.at_level("WARNING", logger="abnn_serve"):
        assert with_fewer_kernels(b"no graph") == b"no graph"
    assert caplog.messages[0].startswith("opening the graph as exported: rewriting it for CUDA failed: ")


CODE = """g (float[N, 4, 5, 5] x) => (float[N, 8] code{outputs}) <float eps = {{0.00001}}> {{
    y = Neg(x)
    pooled = GlobalAveragePool({pooled})
    m = Flatten(pooled)
    squared = {square}
    meaned = GlobalAveragePool(squared)
    q = Flatten(meaned)
    mm = Mul(m, m)
    difference = Sub(q, mm)
    clipped = Relu(difference)
    variance = Add(clipped, {eps})
    deviation = Sqrt(variance)
    {more}
    code = Concat<axis = 1>(m, deviation) }}"""


def code(*, pooled="y", square="Mul(y, y)", eps="eps", more="", outputs="", **numbers: np.ndarray):
    return model(CODE.format(pooled=pooled, square=square, eps=eps, more=more, outputs=outputs), **numbers)


def test_a_single_code_is_read_by_one_kernel():
    built = code()
    check(read_maps_once, built, x=noise(3, 4, 5, 5))
    assert kinds(built) == {"Neg": 1, "Reshape": 3, "Shape": 1, "LayerNormalization": 1, "Reciprocal": 1, "Concat": 1}


def test_a_map_with_two_codes_keeps_both():
    built = code(
        more="""again = Add(clipped, other)
    sigma = Sqrt(again)
    second = Neg(sigma)""",
        outputs=", float[N, 4] second",
        other=np.float32(0.1),
    )
    check(read_maps_once, built, x=noise(3, 4, 5, 5))
    assert kinds(built)["LayerNormalization"] == 1


@pytest.mark.parametrize(
    "changed",
    [{"pooled": "x"}, {"square": "Mul(y, x)"}, {"square": "Add(y, y)"}, {"eps": "several", "several": noise(4) ** 2}],
)
def test_another_computation_is_left_alone(changed):
    built = code(**changed)
    before = kinds(built)
    check(read_maps_once, built, x=noise(3, 4, 5, 5))
    assert kinds(built) == before
