"""The int8 variant: made, measured, refused where it costs too much, served on demand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import abnn_serve.lab.export.bundle as export_module
from abnn_serve.bundle.store import load_bundle
from abnn_serve.errors import ConfigError, ExportError
from abnn_serve.lab.attacks.gradient import PGD
from abnn_serve.lab.evaluate import evaluate
from abnn_serve.lab.export.bundle import export_bundle
from abnn_serve.lab.export.passes import Stage
from abnn_serve.lab.export.precision import with_robust_accuracy
from abnn_serve.lab.outcomes import Trial
from abnn_serve.lab.threats import Subject
from abnn_serve.runtime.predictor import Predictor
from abnn_serve.runtime.session import Session


@pytest.fixture(scope="module")
def export(bundle, abnn_run, val_data, tmp_path_factory):
    """Exports once more without torch's exporter, which would give the same graph."""
    with pytest.MonkeyPatch.context() as patch:
        stages = [Stage("as served", 0, bundle.read("model.onnx"))]
        patch.setattr(export_module, "export_stages", lambda network, spec: stages)

        def run(name, calibration, **options):
            out = tmp_path_factory.mktemp(name) / "shapes"
            return out, lambda: export_bundle(abnn_run, out, val_data, calibration=calibration, **options)

        yield run


@pytest.fixture(scope="module")
def quantised(export, val_data):
    return export("int8", val_data)[1]()


def test_the_variant_stands_beside_the_fp32_graph_with_its_measurements(quantised, val_data):
    assert quantised.manifest.precisions == ("fp32", "int8")
    (variant,) = quantised.card.variants
    session = Session(quantised, "cpu", precision="int8")
    found = session.run(val_data.images)
    assert variant.clean.correct == int((found.argmax(axis=1) == val_data.labels).sum())
    assert variant.clean.value >= quantised.card.clean.value - 0.005
    assert 0 < variant.max_error < 1
    assert variant.images == len(val_data)
    assert variant.robust is None


def test_an_int8_answer_does_not_depend_on_its_neighbours(quantised, val_data):
    session = Session(quantised, "cpu", precision="int8")
    hostile = np.random.default_rng(0).integers(0, 256, (3, *val_data.images.shape[1:]), dtype=np.uint8)
    alone = session.run(val_data.images[:1])
    together = session.run(np.concatenate([hostile, val_data.images[:1]]))[-1:]
    np.testing.assert_allclose(together, alone, atol=1e-5)


def test_a_predictor_serves_it_on_demand(quantised, val_data):
    predictor = Predictor.open(quantised.path, device="cpu", precision="int8")
    expected = Session(quantised, "cpu", precision="int8").run(val_data.images[:2])
    np.testing.assert_array_equal([p.logits for p in predictor.predict(val_data.images[:2])], expected)


def test_a_variant_that_loses_accuracy_is_not_written_unless_that_is_allowed(export, val_data):
    black = replace(val_data, images=np.zeros_like(val_data.images))
    out, work = export("lossy", black)
    with pytest.raises(ExportError, match=r"int8 has .* points below fp32's .*--allow-loss; nothing was written"):
        work()
    assert not out.exists()
    bundle = export("allowed", black, allow_loss=True)[1]()
    assert bundle.card.variants[0].clean.value < bundle.card.clean.value - 0.005


def test_a_precision_that_is_not_there_says_which_are(bundle):
    with pytest.raises(ConfigError, match=r"has no int8 graph, only fp32; .* export it again with --precision int8"):
        Session(bundle, "cpu", precision="int8")


def test_its_robust_accuracy_is_judged_on_the_white_box_images(quantised, abnn_run, val_data):
    subject = Subject(network=abnn_run.network())
    trials = [Trial(threat_model="whitebox", attack=PGD(eps=eps, steps=5)) for eps in (0.0, 0.3)]
    whole = evaluate(subject, val_data, trials)
    (variant,) = with_robust_accuracy(quantised, whole)
    (harmless,) = with_robust_accuracy(quantised, replace(whole, outcomes=whole.outcomes[:1]))
    assert harmless.robust == quantised.card.variants[0].clean
    assert variant.robust.value < harmless.robust.value
    assert load_bundle(quantised.path).card.variants[0].robust is None
