from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto

from abnn_serve.errors import ConfigError
from abnn_serve.evaluation.foreign.classifier import open_classifier
from abnn_serve.evaluation.foreign.preprocess import Preprocess, read_preprocess
from tests.evaluation.foreign.conftest import small_graph

PIXELS = np.random.default_rng(0).integers(0, 256, (5, 32, 32, 3), dtype=np.uint8)
RAW = Preprocess(std=(1 / 255,) * 3)


@pytest.mark.parametrize(
    ("options", "preprocess"),
    [
        ({"layout": "NHWC"}, RAW),
        ({"layout": "flat"}, RAW),
        ({"batch": 2}, RAW),
        ({"dtype": TensorProto.UINT8}, Preprocess()),
        ({"dtype": TensorProto.UINT8, "layout": "NHWC"}, Preprocess()),
        ({"size": "S"}, RAW),
    ],
    ids=["NHWC", "flat", "batch of two", "uint8", "uint8 NHWC", "open size"],
)
def test_every_form_of_input_gives_the_same_logits(options, preprocess, tmp_path):
    expected = open_classifier(small_graph(tmp_path / "plain.onnx"), RAW).logits(PIXELS)
    size = (32, 32) if options.get("size") else None
    other = open_classifier(small_graph(tmp_path / "other.onnx", **options), preprocess, size=size)
    np.testing.assert_allclose(other.logits(PIXELS), expected, rtol=1e-4, atol=1e-3)
    assert (other.signature.height, other.signature.width, other.signature.classes) == (32, 32, 3)


def test_a_final_softmax_is_seen_and_its_logarithm_taken(tmp_path):
    logits = open_classifier(small_graph(tmp_path / "a.onnx"), Preprocess()).logits(PIXELS)
    classifier = open_classifier(small_graph(tmp_path / "b.onnx", softmax=True), Preprocess())
    assert classifier.signature.is_probability
    log_sum = np.log(np.exp(logits).sum(axis=1, keepdims=True))
    np.testing.assert_allclose(classifier.logits(PIXELS), logits - log_sum, atol=1e-4)


def test_one_of_several_outputs_is_chosen_by_name(tmp_path):
    path = small_graph(tmp_path / "two.onnx", extra_output=True)
    with pytest.raises(ConfigError, match=r"has several outputs \(logits, flat\); choose one with --output NAME"):
        open_classifier(path, Preprocess())
    assert open_classifier(path, Preprocess(), output="logits").signature.output == "logits"
    with pytest.raises(ConfigError, match="has no output named 'scores', expected one of logits, flat"):
        open_classifier(path, Preprocess(), output="scores")


def test_files_that_are_no_classifier_of_images_are_one_line(tmp_path):
    (tmp_path / "text.onnx").write_text("not a graph")
    with pytest.raises(ConfigError, match="is not an ONNX file"):
        open_classifier(tmp_path / "text.onnx", Preprocess())
    with pytest.raises(ConfigError, match="no such file; give a run, a bundle or an ONNX file"):
        open_classifier(tmp_path / "none.onnx", Preprocess())
    with pytest.raises(ConfigError, match=r"leaves its input size open.*give it with --size"):
        open_classifier(small_graph(tmp_path / "open.onnx", size="S"), Preprocess())
    with pytest.raises(ConfigError, match="takes images of 32x32, but --size is 64x64; omit --size"):
        open_classifier(small_graph(tmp_path / "fixed.onnx"), Preprocess(), size=(64, 64))
    with pytest.raises(ConfigError, match="takes uint8 pixels, which need no preprocessing"):
        open_classifier(small_graph(tmp_path / "u.onnx", dtype=TensorProto.UINT8), read_preprocess("imagenet"))
    with pytest.raises(ConfigError, match=r"has the input pixels of shape \(N, 4, 32, 32\), expected RGB images"):
        open_classifier(_changed(small_graph(tmp_path / "four.onnx"), channels=4), Preprocess())


def test_two_inputs_are_refused(tmp_path):
    path = small_graph(tmp_path / "two.onnx")
    model = onnx.load(str(path))
    model.graph.input.append(onnx.helper.make_tensor_value_info("mask", TensorProto.FLOAT, ["N", 1]))
    onnx.save(model, str(path))
    with pytest.raises(ConfigError, match=r"has 2 inputs \(pixels, mask\), expected one image"):
        open_classifier(path, Preprocess())


def test_a_size_that_the_graph_does_not_take_is_one_line(tmp_path, capfd):
    path = small_graph(tmp_path / "open.onnx", size="S")
    with pytest.raises(ConfigError, match=r"cannot run .*open.onnx on images of 48x48: .*Gemm.*; is this the size"):
        open_classifier(path, Preprocess(), size=(48, 48))
    assert capfd.readouterr().err == ""


def test_a_graph_that_runs_single_images_only_is_asked_one_by_one(tmp_path):
    expected = open_classifier(small_graph(tmp_path / "plain.onnx"), RAW).logits(PIXELS)
    path = small_graph(tmp_path / "single.onnx")
    model = onnx.load(str(path))
    (flatten,) = [node for node in model.graph.node if node.op_type == "Flatten"]
    flatten.CopyFrom(onnx.helper.make_node("Reshape", [flatten.input[0], "row"], flatten.output))
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.array([1, 96]), "row"))
    onnx.save(model, str(path))
    single = open_classifier(path, RAW)
    assert single.signature.batch == 1
    np.testing.assert_allclose(single.logits(PIXELS), expected, rtol=1e-4, atol=1e-3)


def test_the_digest_covers_weights_and_preprocessing(tmp_path):
    path = small_graph(tmp_path / "a.onnx")
    digests = {open_classifier(path, preprocess).digest for preprocess in (Preprocess(), RAW)}
    other = open_classifier(small_graph(tmp_path / "b.onnx", softmax=True), Preprocess()).digest
    assert len({*digests, other}) == 3


@pytest.mark.parametrize(
    ("text", "mean", "std"),
    [
        ("none", (0, 0, 0), (1, 1, 1)),
        ("mean=0.5,std=0.25", (0.5,) * 3, (0.25,) * 3),
        ("mean=0.1,0.2,0.3,std=1,1,0.5", (0.1, 0.2, 0.3), (1, 1, 0.5)),
    ],
)
def test_preprocessing_is_read_from_text(text, mean, std):
    assert read_preprocess(text) == Preprocess(mean=mean, std=std)


def test_preprocessing_is_read_from_json_and_bad_values_are_one_line(tmp_path):
    (tmp_path / "p.json").write_text('{"mean": [0.1, 0.2, 0.3], "std": [1, 1, 1]}')
    assert read_preprocess(str(tmp_path / "p.json")).mean == (0.1, 0.2, 0.3)
    (tmp_path / "q.json").write_text('{"mean": [0.1]}')
    for text, message in [
        (str(tmp_path / "q.json"), "q.json.mean is .*, expected 3 items"),
        (str(tmp_path / "none.json"), "is not a readable JSON file"),
        ("imagnet", "--preprocess is 'imagnet', expected imagenet, cifar10, none"),
        ("mean=1,2,std=1", "--preprocess is 'mean=1,2,std=1', expected imagenet"),
        ("mean=123,std=1", "expected means from 0 to 1"),
    ]:
        with pytest.raises(ConfigError, match=message):
            read_preprocess(text)


def _changed(path, channels):
    model = onnx.load(str(path))
    model.graph.input[0].type.tensor_type.shape.dim[1].dim_value = channels
    (weights,) = [tensor for tensor in model.graph.initializer if tensor.name == "conv"]
    wider = np.zeros((6, channels, 8, 8), np.float32)
    weights.CopyFrom(onnx.numpy_helper.from_array(wider, "conv"))
    onnx.save(model, str(path))
    return path
