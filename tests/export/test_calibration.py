"""Temperature scaling: the fit, the error that it reduces, and bundles with and without it."""

from __future__ import annotations

import shutil
from dataclasses import replace

import numpy as np
import pytest

from abnn_serve.bundle.manifest import Calibration
from abnn_serve.bundle.store import load_bundle, write_bundle
from abnn_serve.errors import ConfigError, ExportError
from abnn_serve.export.calibration import (
    calibrate,
    expected_calibration_error,
    fit_calibration,
    fit_temperature,
    negative_log_likelihood,
)
from abnn_serve.lab.data.dataset import ImageData
from abnn_serve.runtime.prediction_json import prediction_json
from abnn_serve.runtime.predictor import Predictor
from abnn_serve.spec import Labels


def _overconfident(factor: float, count: int = 4000) -> tuple[np.ndarray, ImageData]:
    """Logits whose softmax at temperature `factor` is the true distribution of the labels."""
    rng = np.random.default_rng(3)
    true = rng.normal(0, 1.5, (count, 4))
    shares = np.exp(true) / np.exp(true).sum(axis=1, keepdims=True)
    labels = np.array([rng.choice(4, p=row) for row in shares])
    images = np.zeros((count, 1, 1, 3), np.uint8)
    data = ImageData(source="drawn", images=images, labels=labels, classes=Labels(names=("a", "b", "c", "d")))
    return (factor * true).astype(np.float32), data


@pytest.mark.parametrize("factor", [0.4, 1.0, 3.0])
def test_the_temperature_of_overconfident_logits_is_found_and_removes_their_error(factor):
    logits, data = _overconfident(factor)
    calibration, result = fit_calibration(logits, data, abstain_below=0.5)
    assert calibration.temperature == pytest.approx(factor, rel=0.1)
    assert result.ece_after < 0.04
    assert result.nll_after <= result.nll_before + 0.01
    if factor != 1:
        assert result.ece_before > 3 * result.ece_after
    assert (result.fitted, result.measured) == (2000, 2000)
    assert result.answered.n + result.abstained == 2000
    assert result.answered.value > 0.5


def test_the_search_finds_a_minimum_and_stays_within_its_bounds():
    assert fit_temperature(lambda t: abs(np.log(t / 2.5))) == pytest.approx(2.5, rel=1e-4)
    assert fit_temperature(lambda t: t) == pytest.approx(0.05, rel=1e-3)


def test_the_errors_are_those_of_their_definitions():
    probabilities = np.array([[0.9, 0.1], [0.9, 0.1], [0.4, 0.6], [0.5, 0.5]])
    labels = np.array([0, 1, 1, 0])
    assert expected_calibration_error(probabilities, labels) == pytest.approx((0.8 + 0.4 + 0.5) / 4)
    assert negative_log_likelihood(probabilities, labels) == pytest.approx(-np.log([0.9, 0.1, 0.6, 0.5]).mean())
    assert expected_calibration_error(np.array([[1.0, 0.0]]), np.array([0])) == 0


@pytest.fixture
def copied(bundle, tmp_path):
    shutil.copytree(bundle.path, tmp_path / "shapes")
    return load_bundle(tmp_path / "shapes")


def test_a_calibrated_bundle_answers_the_same_classes_with_other_probabilities_and_abstains(copied, val_data):
    before = Predictor.open(copied.path, device="cpu", threads=1).predict(val_data.images[:8], top_k=3)
    changed = calibrate(copied, val_data, abstain_below=0.7)
    assert changed.digest != copied.digest
    assert changed.manifest.format_version == 4
    assert changed.card.calibration.measured == len(val_data) // 2
    temperature = changed.manifest.calibration.temperature
    after = Predictor.open(copied.path, device="cpu", threads=1).predict(val_data.images[:8], top_k=3)
    for old, new in zip(before, after, strict=True):
        assert [score.label for score in old.top] == [score.label for score in new.top]
        assert np.array_equal(old.logits, new.logits)
        weights = np.exp(np.sort(new.logits / temperature)[::-1] - new.logits.max() / temperature)
        assert [score.probability for score in new.top] == pytest.approx(weights / weights.sum(), rel=1e-5)
        assert new.abstained is (new.top[0].probability < 0.7)
        assert prediction_json(new)["abstained"] is new.abstained
        assert old.abstained is None
        assert "abstained" not in prediction_json(old)
    again = calibrate(changed, val_data)
    assert again.manifest.calibration == Calibration(temperature=temperature)
    assert again.card.calibration.abstained is None


def test_calibration_is_refused_where_it_has_no_meaning(copied, masks_bundle, val_data, tmp_path):
    with pytest.raises(ExportError, match="answers by a rule"):
        calibrate(masks_bundle, val_data)
    with pytest.raises(ExportError, match="at least two"):
        calibrate(copied, val_data.part(slice(0, 1)))
    with pytest.raises(ConfigError, match="temperature is 0, expected"):
        Calibration(temperature=0)
    files = {name: copied.read(name) for name in copied.manifest.files}
    with pytest.raises(ConfigError, match="format_version is 1, expected 4 for a calibration"):
        write_bundle(
            tmp_path / "wrong",
            files,
            lambda entries: replace(copied.manifest, files=entries, calibration=Calibration(temperature=2.0)),
        )
