from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from abnn_serve.bundle.store import Bundle, load_bundle, write_bundle
from abnn_serve.errors import BundleIntegrityError, ConfigError
from abnn_serve.evaluation.bundle_checks import auroc, with_attacked_drift
from abnn_serve.evaluation.outcomes import Trial
from abnn_serve.evaluation.threats import Subject
from abnn_serve.evaluation.trials import run_trials
from abnn_serve.lab.attacks.pgd import PGD
from abnn_serve.runtime.drift import DRIFT_FILE, DriftMeter
from abnn_serve.runtime.predictor import Predictor
from abnn_serve.runtime.session import Session
from abnn_serve.scoring.score import score
from abnn_serve.scoring.scorer import Columns
from tests.export.families import expected_drift


@pytest.fixture(scope="module")
def meter(bundle: Bundle) -> DriftMeter:
    return DriftMeter(Session(bundle, "cpu", threads=1))


def _with_files(bundle: Bundle, path, changes: dict[str, bytes | None]) -> Bundle:
    files = {name: bundle.read(name) for name in bundle.manifest.files} | changes
    files = {name: data for name, data in files.items() if data is not None}
    return write_bundle(path, files, lambda entries: replace(bundle.manifest, files=entries))


def test_drift_is_the_distance_of_the_targets_statistics_from_the_recorded_ones(bundle, abnn_run, val_data, meter):
    expected = expected_drift(abnn_run.network(), val_data.images)
    logits, drift = meter.run(val_data.images)
    np.testing.assert_allclose(drift, expected, rtol=2e-2)
    np.testing.assert_allclose(logits, Session(bundle, "cpu", threads=1).run(val_data.images), atol=1e-5)
    card = bundle.card.drift
    assert (card.images, card.layers) == (len(val_data), expected.shape[1])
    assert card.median == pytest.approx(float(np.median(drift.mean(axis=1))), rel=1e-2)
    assert card.median < card.p95 < card.p99


def test_images_of_another_kind_are_far_from_the_recorded_ones(val_data, meter):
    other = np.random.default_rng(0).integers(0, 2, val_data.images.shape, dtype=np.uint8) * 255
    clean, far = (meter.run(images)[1].mean(axis=1) for images in (val_data.images, other))
    assert auroc(clean, far) > 0.99


def test_asking_for_drift_leaves_the_graph_and_the_plain_answers_as_they_are(bundle, val_data):
    plain, measured = (
        Predictor(Session(bundle, "cpu", threads=1), drift=drift).predict(val_data.images[:8])
        for drift in (False, True)
    )
    assert all(answer.drift is None for answer in plain)
    for one, other in zip(plain, measured, strict=True):
        np.testing.assert_allclose(one.logits, other.logits, atol=1e-5)
        assert other.drift.shape == (bundle.card.drift.layers,)


def test_an_old_bundle_serves_and_refuses_drift_in_one_line(bundle, val_data, tmp_path):
    before = {key: value for key, value in json.loads(bundle.read("card.json")).items() if key != "drift"}
    old = _with_files(bundle, tmp_path / "old", {DRIFT_FILE: None, "card.json": json.dumps(before).encode()})
    assert load_bundle(old.path).card.drift is None
    session = Session(old, "cpu", threads=1)
    assert len(Predictor(session).predict(val_data.images[:2])) == 2
    with pytest.raises(ConfigError, match=r"old has no drift.onnx, .*; export it again, or omit --drift"):
        Predictor(session, drift=True)


def test_a_drift_graph_of_another_model_is_refused(bundle, tmp_path):
    wrong = _with_files(bundle, tmp_path / "wrong", {DRIFT_FILE: bundle.read(DRIFT_FILE).replace(b"drift", b"other")})
    with pytest.raises(BundleIntegrityError, match=r"drift.onnx does not match model.onnx"):
        DriftMeter(Session(wrong, "cpu", threads=1))


def test_the_card_says_how_well_drift_tells_attacked_images(bundle, abnn_run, val_data):
    subject = Subject(network=abnn_run.network(), served=Session(bundle, "cpu").run, served_digest="x")
    trials = [Trial(threat_model="whitebox", attack=PGD(eps=0.2, steps=5, step_size=0.1))]
    found = with_attacked_drift(bundle, run_trials(subject, val_data, trials))
    (row,) = found.attacks
    assert (row.attack, row.eps) == ("PGD-5", 0.2)
    assert 0 <= row.auroc <= 1
    assert 0 < row.images <= len(val_data)


def test_scoring_writes_drift_columns_on_request(bundle, shapes, val_data, meter, tmp_path):
    predictor = Predictor(Session(bundle, "cpu", threads=1), drift=True)
    score(predictor, shapes["val"], tmp_path / "out", columns=Columns(drift=True))
    found = pq.read_table(tmp_path / "out" / "predictions" / "part-000000.parquet")
    layers = np.asarray(found["drift_layers"].to_pylist(), np.float32)
    np.testing.assert_allclose(layers, meter.run(val_data.images)[1], rtol=1e-4)
    np.testing.assert_allclose(found["drift"].to_numpy(), layers.mean(axis=1), rtol=1e-5)


@given(st.lists(st.integers(0, 5), min_size=1, max_size=20), st.lists(st.integers(0, 5), min_size=1, max_size=20))
def test_auroc_is_the_share_of_pairs_in_order(low, high):
    pairs = [(a < b) + 0.5 * (a == b) for a in low for b in high]
    assert auroc(np.asarray(low, np.float32), np.asarray(high, np.float32)) == pytest.approx(np.mean(pairs))
