from __future__ import annotations

import json

import numpy as np
import onnx
import pytest

from abnn_serve import evaluate
from abnn_serve.errors import ConfigError
from abnn_serve.evaluation.foreign.classifier import open_classifier
from abnn_serve.evaluation.foreign.open import read_labels
from abnn_serve.evaluation.foreign.preprocess import read_preprocess
from abnn_serve.evaluation.opening import output_folder
from abnn_serve.evaluation.reports.source import read_card
from abnn_serve.lab.data.load import load_data
from abnn_serve.spec import InputSpec
from tests.drawing import SHAPES
from tests.evaluation.foreign.conftest import label, small_graph


def test_a_file_is_attacked_through_its_gradients_and_judged_as_uint8_on_itself(labelled, tmp_path):
    pytest.importorskip("onnx2fx", reason="the extra foreign")
    path, data = labelled
    options = {"attacks": ["pgd"], "images": 16, "curve_images": 2, "threats": ["whitebox"], "preprocess": "cifar10"}
    card = evaluate(path, data, out=tmp_path / "o", **options)
    assert card.clean.correct == 16
    assert card.worst["whitebox"].correct < 16
    assert card.training is None
    assert card.limits[0] == "Everything is judged on small.onnx in ONNX Runtime."
    assert "differ from ONNX Runtime's by at most" in card.limits[1]
    passed = {check.name for check in card.sanity if check.passed}
    assert {"gradients match finite differences", "logits are not random", "logits are not probabilities"} <= passed
    batches = {len(np.load(path)["right"]): path for path in (tmp_path / "o" / "batches").glob("*-000000.npz")}
    with np.load(batches[16]) as arrays:  # the others are of curves
        levels = arrays["images"] * 255
        pixels = levels.round().astype(np.uint8).transpose(0, 2, 3, 1)
        np.testing.assert_allclose(levels, levels.round(), atol=1e-3)
        clean = load_data(data, InputSpec(height=32, width=32)).spread(16)
        assert np.abs(pixels.astype(int) - clean.images).max() <= 8
        classes = open_classifier(path, read_preprocess("cifar10")).logits(pixels).argmax(axis=1)
        np.testing.assert_array_equal(arrays["right"], classes == clean.labels)


@pytest.mark.parametrize(("size", "layout"), [(96, "NHWC"), (384, "NCHW")])
def test_files_of_larger_images_are_attacked_through_their_gradients(size, layout, tmp_path):
    pytest.importorskip("onnx2fx", reason="the extra foreign")
    path, data = label(
        small_graph(tmp_path / "large.onnx", size=size, layout=layout), tmp_path / "d.parquet", size=size, count=4
    )
    options = {"attacks": ["fgsm"], "threats": ["whitebox"], "images": 4, "curve_images": 0, "preprocess": "cifar10"}
    card = evaluate(path, data, out=tmp_path / "o", **options)
    assert card.clean.correct == 4
    assert card.worst["whitebox"].correct < 4
    assert not [check for check in card.sanity if not check.passed]
    (batch,) = (tmp_path / "o" / "batches").glob("*.npz")
    with np.load(batch) as arrays:
        assert arrays["images"].shape == (4, 3, size, size)


def test_a_file_is_attacked_by_queries_and_corrupted_without_the_converter(labelled, tmp_path):
    path, data = labelled
    (tmp_path / "labels.txt").write_text("\n".join(SHAPES) + "\n")
    card = evaluate(
        path, data, preprocess="cifar10", labels=tmp_path / "labels.txt", out=tmp_path / "o", threats=["blackbox"],
        quick=True, images=4, corruptions=True,
    )  # fmt: skip
    assert [row.threat_model for row in card.attacks] == ["blackbox"]
    assert card.corruptions is not None
    assert json.loads((tmp_path / "o" / "card.json").read_text())["training"] is None
    digest, flags = read_card(tmp_path / "o").flags()
    assert len(digest) == 64
    assert flags["blackbox"].sum() == card.worst["blackbox"].correct


def test_preprocessing_that_leaves_chance_accuracy_is_questioned(labelled, tmp_path):
    path, data = labelled
    with pytest.raises(ConfigError, match=r"\d+% right on 32 clean images, as by chance: is --preprocess right"):
        evaluate(path, data, preprocess="mean=1,std=0.01", out=tmp_path / "o")


def test_scores_that_are_not_finite_are_questioned(labelled, tmp_path):
    path, data = labelled
    model = onnx.load(str(path))
    (bias,) = [tensor for tensor in model.graph.initializer if tensor.name == "bias"]
    bias.CopyFrom(onnx.numpy_helper.from_array(np.array([0, np.nan, 0], np.float32), "bias"))
    onnx.save(model, str(path))
    with pytest.raises(ConfigError, match="scores that are not finite to 32 of 32 clean images: is --preprocess"):
        evaluate(path, data, preprocess="cifar10", out=tmp_path / "o")


def test_labels_must_be_as_many_as_outputs(labelled, tmp_path):
    path, data = labelled
    (tmp_path / "two.txt").write_text("dot\nline\n")
    with pytest.raises(ConfigError, match=r"--labels names 2 classes, but .* has 3 outputs"):
        evaluate(path, data, labels=tmp_path / "two.txt", out=tmp_path / "o")


def test_options_of_the_other_kind_are_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"--labels, --preprocess, .* are for ONNX files"):
        evaluate(tmp_path, "data", preprocess="imagenet")
    with pytest.raises(ConfigError, match="--run and --probe are for runs and bundles"):
        evaluate(small_graph(tmp_path / "m.onnx"), "data", run=tmp_path)


def test_labels_are_read_from_lines_or_json(tmp_path):
    (tmp_path / "a.txt").write_text("cat\n\ndog \n")
    (tmp_path / "a.json").write_text('["cat", "dog"]')
    assert read_labels(tmp_path / "a.txt") == read_labels(tmp_path / "a.json")
    (tmp_path / "b.json").write_text('{"0": "cat"}')
    with pytest.raises(ConfigError, match="holds a JSON dict, expected a list of class names"):
        read_labels(tmp_path / "b.json")
    with pytest.raises(ConfigError, match="is not readable"):
        read_labels(tmp_path / "none.txt")


def test_results_of_a_file_go_into_the_working_directory(tmp_path):
    assert str(output_folder(tmp_path / "model.onnx")) == "model-evaluation"
