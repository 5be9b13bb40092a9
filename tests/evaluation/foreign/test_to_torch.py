from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from abnn_serve.errors import ConfigError
from abnn_serve.evaluation.foreign import to_torch as module
from abnn_serve.evaluation.foreign.classifier import open_classifier
from abnn_serve.evaluation.foreign.differentiable import differentiable, operators
from abnn_serve.evaluation.foreign.preprocess import Preprocess, read_preprocess
from abnn_serve.evaluation.foreign.to_torch import to_torch
from abnn_serve.evaluation.gradient_check import gradient_error
from abnn_serve.lab.attacks.adaptive import StraightThroughNetwork, steps_without_gradient
from abnn_serve.lab.training.batches import to_input
from tests.evaluation.foreign.conftest import small_graph

PIXELS = np.random.default_rng(0).integers(0, 256, (6, 32, 32, 3), dtype=np.uint8)

pytest.importorskip("onnx2fx", reason="the extra foreign")


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"layout": "NHWC"},
        {"layout": "flat"},
        {"batch": 4},
        {"dtype": TensorProto.UINT8, "layout": "NHWC"},
        {"softmax": True},
        {"inner_cast": True},
        {"opset": 13},
    ],
    ids=["NCHW", "NHWC", "flat", "batch of four", "uint8", "softmax", "inner cast", "opset 13"],
)
def test_the_torch_form_gives_onnx_runtime_s_logits_and_right_gradients(options, tmp_path):
    preprocess = Preprocess() if options.get("dtype") else read_preprocess("cifar10")
    classifier = open_classifier(small_graph(tmp_path / "m.onnx", **options), preprocess)
    converted = to_torch(classifier, PIXELS)
    assert converted.error < 1e-2
    assert (converted.same_class, converted.is_straight_through) == (1, False)
    assert gradient_error(converted.network, to_input(PIXELS[:2])).max() < 0.3
    if options.get("softmax"):
        logits = converted.network(to_input(PIXELS))
        assert (logits.sum(dim=1) - 1).abs().max() > 0.1


def test_a_quantised_file_rounds_in_torch_as_it_does_itself_and_has_straight_through_gradients(tmp_path):
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    plain = small_graph(tmp_path / "fp32.onnx")

    class Reader(CalibrationDataReader):
        def __init__(self):
            self.batches = iter([{"pixels": PIXELS.transpose(0, 3, 1, 2).astype(np.float32) / 255}])

        def get_next(self):
            return next(self.batches, None)

    quantize_static(
        str(plain), str(tmp_path / "int8.onnx"), Reader(), quant_format=QuantFormat.QDQ, per_channel=True,
        activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8,
    )  # fmt: skip
    quantised = open_classifier(tmp_path / "int8.onnx", Preprocess())
    graph = differentiable(quantised.model, "logits")
    assert "Round" in operators(graph)
    assert not operators(graph) & {"QuantizeLinear", "DequantizeLinear"}
    converted = to_torch(quantised, PIXELS)
    assert converted.is_straight_through
    assert converted.error < 0.02 * np.abs(quantised.logits(PIXELS)).max()
    original = to_torch(open_classifier(plain, Preprocess()), PIXELS).network
    assert steps_without_gradient(converted.network, to_input(PIXELS)) == ("round",)
    gradients = []
    for network in (original, StraightThroughNetwork(converted.network)):
        x = to_input(PIXELS).requires_grad_()
        gradients.append(torch.autograd.grad(network(x)[:, 0].sum(), x)[0].flatten())
    assert torch.nn.functional.cosine_similarity(*gradients, dim=0) > 0.9


def test_a_file_that_rounds_is_attacked_through_its_rounding(tmp_path):
    plain = onnx.load(str(small_graph(tmp_path / "fp32.onnx")))
    nodes = [
        helper.make_node("Mul", ["pixels", "levels"], ["scaled"]),
        helper.make_node("Round", ["scaled"], ["rounded"]),
        helper.make_node("Div", ["rounded", "levels"], ["coarse"]),
    ]
    plain.graph.node[0].input[0] = "coarse"
    rest = list(plain.graph.node)
    del plain.graph.node[:]
    plain.graph.node.extend([*nodes, *rest])
    plain.graph.initializer.append(numpy_helper.from_array(np.float32(7), "levels"))
    onnx.save(plain, str(tmp_path / "coarse.onnx"))
    converted = to_torch(open_classifier(tmp_path / "coarse.onnx", Preprocess()), PIXELS)
    assert converted.is_straight_through
    assert converted.same_class == 1
    x = to_input(PIXELS).requires_grad_()
    assert torch.autograd.grad(converted.network(x).sum(), x)[0].abs().max() == 0
    (through,) = torch.autograd.grad(StraightThroughNetwork(converted.network)(x).sum(), x)
    assert through.abs().max() > 0.01


def test_a_missing_operator_is_named_and_queries_are_offered(tmp_path):
    path = small_graph(tmp_path / "m.onnx")
    model = onnx.load(str(path))
    model.graph.node[1].CopyFrom(helper.make_node("Sparkle", ["features"], ["positive"], domain="com.example"))
    classifier = open_classifier(path, Preprocess())
    classifier.model.CopyFrom(model)
    with pytest.raises(
        ConfigError, match=r"uses the operator com.example.Sparkle.*attack by queries.*--threat blackbox"
    ):
        to_torch(classifier, PIXELS)


def test_logits_that_differ_are_an_error(tmp_path):
    classifier = open_classifier(small_graph(tmp_path / "m.onnx"), Preprocess())
    (bias,) = [tensor for tensor in classifier.model.graph.initializer if tensor.name == "bias"]
    bias.CopyFrom(numpy_helper.from_array(np.array([9, 0, 0], np.float32), "bias"))
    with pytest.raises(ConfigError, match=r"the torch form of .* differs from ONNX Runtime by 9"):
        to_torch(classifier, PIXELS)


def test_without_the_converter_the_extra_is_named(tmp_path, monkeypatch):
    classifier = open_classifier(small_graph(tmp_path / "m.onnx"), Preprocess())
    monkeypatch.setattr(module.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(ConfigError, match=r"need onnx2fx; install it with: pip install 'abnn_serve\[foreign\]'"):
        to_torch(classifier, PIXELS)
