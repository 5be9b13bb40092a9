from __future__ import annotations

import json

import numpy as np
import onnx
import pytest
import torch
from torch import nn

import abnn_serve.export.bundle as export_module
from abnn_serve.errors import ExportError, ParityError
from abnn_serve.export.bundle import export_bundle
from abnn_serve.export.graph import export_graph
from abnn_serve.lab.abnn.network import ServedNetwork, torch_logits
from abnn_serve.lab.data.dataset import ImageData
from abnn_serve.lab.training.batches import to_input
from abnn_serve.lab.training.validation import evaluate_clean
from abnn_serve.runtime.predictor import Predictor
from abnn_serve.spec import InputSpec, Labels
from tests.export.families import as_stage, untrained_run


@pytest.fixture
def exported_once(bundle, monkeypatch):
    """The graph that the run gave before: exporting takes most of the time, and gives the same bytes each time."""
    model = bundle.read("model.onnx")
    stages = [as_stage("as served", model)]
    monkeypatch.setattr(export_module, "export_stages", lambda network, spec, pixel_type: stages)


def test_the_exported_graph_takes_uint8_and_gives_logits_for_any_batch(bundle):
    graph = onnx.load_from_string(bundle.read("model.onnx")).graph
    (image,), (logits,) = graph.input, graph.output
    assert (image.name, image.type.tensor_type.elem_type) == ("image", onnx.TensorProto.UINT8)
    assert [d.dim_param or d.dim_value for d in image.type.tensor_type.shape.dim][1:] == [32, 32, 3]
    assert image.type.tensor_type.shape.dim[0].dim_param
    assert (logits.name, logits.type.tensor_type.elem_type) == ("logits", onnx.TensorProto.FLOAT)


def test_the_graph_holds_both_networks_and_not_the_substitutes_classifier(bundle):
    nodes = [node.op_type for node in onnx.load_from_string(bundle.read("model.onnx")).graph.node]
    assert nodes.count("Conv") == 14
    assert nodes.count("MaxPool") + nodes.count("GlobalMaxPool") + nodes.count("ReduceMax") == 5


def test_the_served_logits_are_torchs_on_real_images(bundle, abnn_run, predictor, val_data):
    expected = torch_logits(ServedNetwork(abnn_run.network()).eval(), val_data.images)
    found = np.stack([prediction.logits for prediction in predictor.predict(val_data.images)])
    assert np.abs(found - expected).max() <= 1e-4
    assert bundle.manifest.parity.max_error <= 1e-4
    assert bundle.manifest.parity.images == len(val_data)
    assert bundle.manifest.parity.batch_sizes == (1, 7)


def test_pixels_enter_as_they_did_in_training(abnn_run, val_data):
    network = abnn_run.network()
    with torch.inference_mode():
        expected = network(to_input(val_data.images[:4])).numpy()
    found = torch_logits(ServedNetwork(network).eval(), val_data.images[:4])
    assert np.abs(found - expected).max() < 1e-5


def test_the_card_says_what_was_measured_and_that_robustness_was_not(bundle, abnn_run, val_data):
    accuracy, _ = evaluate_clean(abnn_run.network(), val_data)
    assert bundle.card.clean.value == accuracy
    assert bundle.card.data_digest == val_data.digest
    assert bundle.card.attacks == ()
    assert "has not been evaluated" in bundle.card.limits[0]
    assert bundle.card.training.passes_per_step == 3
    assert bundle.card.training.substitute_seconds > 0


def test_an_undefended_run_is_exported_too(standard_run, val_data, tmp_path):
    bundle = export_bundle(standard_run, tmp_path / "plain", val_data)
    assert bundle.manifest.pairs == ()
    assert bundle.card.training.substitute_seconds is None


def test_an_export_whose_parity_fails_writes_nothing(exported_once, abnn_run, val_data, tmp_path):
    with pytest.raises(
        ParityError, match=r"the exported logits differ from torch's by .* at batch size 1, .*nothing was written"
    ):
        export_bundle(abnn_run, tmp_path / "models" / "b", val_data, tolerance=0.0)
    assert list(tmp_path.iterdir()) == []


def test_a_pass_that_breaks_parity_is_skipped(bundle, abnn_run, val_data, tmp_path, monkeypatch):
    good = bundle.read("model.onnx")
    model = onnx.load_from_string(good)
    for tensor in model.graph.initializer:
        if tensor.name.endswith("classifier.bias"):
            tensor.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(tensor) + 0.01, tensor.name))
    stages = [as_stage("as exported", good), as_stage("a rough pass", model.SerializeToString())]
    monkeypatch.setattr(export_module, "export_stages", lambda network, spec, pixel_type: stages)
    said, kept = [], []
    made = export_bundle(abnn_run, tmp_path / "b", val_data, on_stage=said.append, on_passes=kept.extend)
    assert made.read("model.onnx") == good
    assert [gain.name for gain in kept] == ["as exported"]
    assert any("skipping graph pass 'a rough pass'" in line for line in said)


def test_an_export_that_predicts_other_classes_writes_nothing(exported_once, abnn_run, val_data, tmp_path, monkeypatch):
    wrong = "abnn_serve.export.parity.torch_logits"
    monkeypatch.setattr(wrong, lambda served, images: -torch_logits(served, images))
    with pytest.raises(ParityError, match=r"predict different classes for .* of 64 images"):
        export_bundle(abnn_run, tmp_path / "b", val_data, tolerance=1e9)
    assert list(tmp_path.iterdir()) == []


def test_a_failure_while_measuring_leaves_nothing_and_keeps_the_old_bundle(
    exported_once, abnn_run, val_data, tmp_path, monkeypatch
):
    old = export_bundle(abnn_run, tmp_path / "b", val_data)

    def fail(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(export_module, "_clean_accuracy", fail)
    with pytest.raises(OSError, match="disk full"):
        export_bundle(abnn_run, tmp_path / "b", val_data, version="2")
    assert [p.name for p in tmp_path.iterdir()] == ["b"]
    assert Predictor.open(tmp_path / "b", device="cpu").bundle.digest == old.digest


def test_the_same_run_exports_to_the_same_model_bytes(abnn_run, bundle):
    assert export_graph(abnn_run.network(), abnn_run.config.input) == bundle.read("model.onnx")


def test_the_exported_file_has_no_path_of_the_machine_that_exported_it(bundle):
    model = bundle.read("model.onnx")
    assert b"/abnn_serve/" not in model
    assert b"site-packages" not in model
    assert b".py" not in model


def test_batch_statistics_cannot_be_exported(abnn_run):
    network = abnn_run.network()
    norm = nn.BatchNorm2d(3, track_running_stats=False)
    network.target.body = nn.Sequential(norm, network.target.body)
    with pytest.raises(ExportError, match="uses batch statistics, so a sample's logits would depend"):
        export_graph(network, abnn_run.config.input)


def test_training_data_is_refused_as_held_out_data(abnn_run, shapes, tmp_path):
    from abnn_serve.lab.data.load import load_data

    with pytest.raises(ExportError, match="the network was trained on this data; give held-out images"):
        export_bundle(abnn_run, tmp_path / "b", load_data(shapes["train"], abnn_run.config.input))


def test_data_of_another_size_is_refused(abnn_run, shapes, tmp_path):
    from abnn_serve.lab.data.load import load_data

    with pytest.raises(ExportError, match=r"images of shape \(16, 16, 3\), the network expects \(32, 32, 3\)"):
        export_bundle(abnn_run, tmp_path / "b", load_data(shapes["val"], InputSpec(height=16, width=16)))


FAMILIES = ["resnet18", "densenet121", "mobilenet_v3_large", "efficientnet_b0", "timm:resnetv2_50", "timm:regnety_002"]


@pytest.mark.slow
@pytest.mark.parametrize("target", ["timm:test_resnet", "mobilenet_v3_small"])
def test_other_families_are_exported_at_a_small_size(target, tmp_path):
    _export_untrained(target, 96, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("target", FAMILIES)
def test_common_families_are_exported_at_224_pixels(target, tmp_path):
    _export_untrained(target, 224, tmp_path)


def _export_untrained(target: str, size: int, path) -> None:
    run = untrained_run(target, "resnet18", size, path / "run")
    images = np.random.default_rng(1).integers(0, 256, (14, size, size, 3), dtype=np.uint8)
    data = ImageData(
        source="noise", images=images, labels=np.zeros(14, np.int64), classes=Labels(names=tuple("0123456789"))
    )
    bundle = export_bundle(run, path / "bundle", data)
    assert bundle.manifest.parity.max_error <= 1e-4
    assert len(bundle.manifest.pairs) > 5
    assert json.loads(bundle.read("labels.json"))["names"] == list("0123456789")
