"""Variants in other precisions: made, measured on each engine, refused where they cost too much, served on demand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import pytest

import abnn_serve.export.bundle as export_module
from abnn_serve.bundle.store import load_bundle
from abnn_serve.errors import ConfigError, DeviceError, ExportError
from abnn_serve.evaluation.bundle_checks import with_robust_accuracy
from abnn_serve.evaluation.outcomes import Trial
from abnn_serve.evaluation.threats import Subject
from abnn_serve.evaluation.trials import run_trials
from abnn_serve.export.bundle import export_bundle
from abnn_serve.lab.attacks.pgd import PGD
from abnn_serve.runtime.open_vino import has_bf16
from abnn_serve.runtime.predictor import Predictor
from abnn_serve.runtime.session import Session
from tests.export.families import as_stage


@pytest.fixture(scope="module")
def export(bundle, abnn_run, val_data, tmp_path_factory):
    """Exports once more without torch's exporter, which would give the same graph."""
    with pytest.MonkeyPatch.context() as patch:
        stages = [as_stage("as served", bundle.read("model.onnx"))]
        patch.setattr(export_module, "export_stages", lambda network, spec, pixel_type: stages)

        def run(name, calibration, **options):
            out = tmp_path_factory.mktemp(name) / "shapes"
            return out, lambda: export_bundle(abnn_run, out, val_data, calibration=calibration, **options)

        yield run


@pytest.fixture(scope="module")
def variants(export, val_data):
    return export("variants", val_data, precisions=("fp32", "int8", "fp16"), allow_loss=True)[1]()


ENGINES = [
    ("int8", "cpu", "CPUExecutionProvider"),
    ("int8", "openvino", "OpenVINO"),
    ("fp16", "cpu", "CPUExecutionProvider"),
]


@pytest.mark.parametrize(("precision", "device", "provider"), ENGINES)
def test_a_variant_stands_on_the_card_with_what_was_measured_on_each_engine(
    variants, val_data, precision, device, provider
):
    assert variants.manifest.precisions == ("fp32", "int8", "fp16")
    (variant,) = (v for v in variants.card.variants if (v.precision, v.provider) == (precision, provider))
    found = Session(variants, device, precision=precision).run(val_data.images)
    assert variant.clean.correct == int((found.argmax(axis=1) == val_data.labels).sum())
    assert variant.clean.correct >= variants.card.clean.correct - 3  # of 64: what rounding does to a small network
    assert 0 < variant.max_error < 1
    assert variant.images == len(val_data)
    assert variant.robust is None


@pytest.mark.parametrize(("precision", "device", "provider"), ENGINES)
def test_an_answer_in_any_precision_does_not_depend_on_its_neighbours(variants, val_data, precision, device, provider):
    session = Session(variants, device, precision=precision)
    hostile = np.random.default_rng(0).integers(0, 256, (9, *val_data.images.shape[1:]), dtype=np.uint8)
    alone = session.run(val_data.images[:1])
    together = session.run(np.concatenate([hostile[:8], val_data.images[:1], hostile[8:]]))[8:9]
    np.testing.assert_allclose(together, alone, atol=1e-5)


def test_half_precision_sums_statistics_and_computes_maps_in_float32(variants):
    graph = onnx.shape_inference.infer_shapes(onnx.load_from_string(variants.read("model.fp16.onnx"))).graph
    types = {value.name: value.type.tensor_type.elem_type for value in graph.value_info}
    by_kind = {kind: {types[n.output[-1]] for n in graph.node if n.op_type == kind} for kind in KINDS}
    assert by_kind == KINDS


KINDS = {
    "Conv": {onnx.TensorProto.FLOAT16},
    "InstanceNormalization": {onnx.TensorProto.FLOAT16},  # its kernel sums in float32
    "LayerNormalization": {onnx.TensorProto.FLOAT},
    "GlobalAveragePool": set(),
}


def test_a_predictor_serves_it_on_demand(variants, val_data):
    predictor = Predictor.open(variants.path, device="cpu", precision="int8")
    expected = Session(variants, "cpu", precision="int8").run(val_data.images[:2])
    np.testing.assert_array_equal([p.logits for p in predictor.predict(val_data.images[:2])], expected)


def test_a_variant_that_loses_accuracy_is_not_written_unless_that_is_allowed(export, val_data):
    black = replace(val_data, images=np.zeros_like(val_data.images))
    out, work = export("lossy", black, precisions=("fp32", "int8"))
    with pytest.raises(
        ExportError,
        match=r"int8 on CPUExecutionProvider has .* points below fp32's .*--allow-loss; nothing was written",
    ):
        work()
    assert not out.exists()
    bundle = export("allowed", black, precisions=("fp32", "int8"), allow_loss=True)[1]()
    assert bundle.card.variants[0].clean.value < bundle.card.clean.value - 0.005


def test_a_precision_that_is_not_there_says_which_are(bundle):
    with pytest.raises(
        ConfigError, match=r"has no int8 graph, only fp32; .* export the bundle again with --precision int8"
    ):
        Session(bundle, "cpu", precision="int8")


def test_its_robust_accuracy_is_judged_on_the_white_box_images(variants, abnn_run, val_data):
    subject = Subject(network=abnn_run.network())
    trials = [Trial(threat_model="whitebox", attack=PGD(eps=eps, steps=5)) for eps in (0.0, 0.3)]
    whole = run_trials(subject, val_data, trials)
    judged = with_robust_accuracy(variants, whole)
    harmless = with_robust_accuracy(variants, replace(whole, outcomes=whole.outcomes[:1]))
    assert [v.robust for v in harmless] == [v.clean for v in variants.card.variants]
    assert all(v.robust.value < h.robust.value for v, h in zip(judged, harmless, strict=True))
    assert load_bundle(variants.path).card.variants[0].robust is None


def test_int8_without_images_to_calibrate_on_says_so(export):
    out, work = export("uncalibrated", None, precisions=("fp32", "int8"))
    with pytest.raises(ExportError, match="int8 needs calibration images"):
        work()
    assert not out.exists()


def test_bf16_where_the_cpu_has_none_is_refused(export, monkeypatch):
    monkeypatch.setattr("abnn_serve.runtime.open_vino.has_bf16", lambda: False)
    with pytest.raises(DeviceError, match="ABNN_PRECISION is 'bf16', but this CPU does not support it"):
        export("bf16", None, precisions=("fp32", "bf16"))[1]()


def test_bf16_is_measured_by_openvino_and_adds_no_file(export, val_data):
    if not has_bf16():
        return
    bundle = export("bf16", None, precisions=("fp32", "bf16"), allow_loss=True)[1]()
    (variant,) = bundle.card.variants
    assert (variant.precision, variant.provider) == ("bf16", "OpenVINO")
    assert 0 < variant.max_error < 1
    assert not [path for path in bundle.path.iterdir() if "bf16" in path.name]
    assert Session(bundle, "openvino", precision="bf16").run(val_data.images[:1]).shape == (1, 3)
