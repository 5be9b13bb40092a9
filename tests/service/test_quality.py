from __future__ import annotations

import asyncio
from types import SimpleNamespace

import numpy as np
import pytest

from abnn_serve.runtime.drift import CpuDriftMeter, DriftMeter
from abnn_serve.runtime.session import Session
from abnn_serve.service.metrics import Metrics
from abnn_serve.service.quality import MAX_LABELS, OTHER, QualitySignals
from tests.drawing import draw_shape, png

PICTURE = png(draw_shape(2, np.random.default_rng(4)))


def _model(names: tuple[str, ...], drift: DriftMeter | None = None) -> SimpleNamespace:
    bundle = SimpleNamespace(labels=SimpleNamespace(names=names))
    return SimpleNamespace(name="m", predictor=SimpleNamespace(bundle=bundle), drift=drift)


def _value(metrics: Metrics, name: str, **labels: str) -> float:
    return metrics._registry.get_sample_value(name, {"model": "m", **labels}) or 0.0


def test_confidence_and_predicted_class_are_recorded_for_each_answer():
    metrics = Metrics(workers=1)
    probabilities = np.array([[0.5, 0.25, 0.25], [0.1, 0.1, 0.8]])
    QualitySignals(metrics, 0.0, lambda: True).record(_model(("a", "b", "c")), probabilities)
    assert _value(metrics, "abnn_top_probability_sum") == pytest.approx(1.3)
    assert _value(metrics, "abnn_margin_sum") == pytest.approx(0.25 + 0.7)
    entropy = -(probabilities * np.log(probabilities)).sum() / np.log(3)
    assert _value(metrics, "abnn_entropy_sum") == pytest.approx(entropy)
    assert _value(metrics, "abnn_predictions_total", label="a") == 1
    assert _value(metrics, "abnn_predictions_total", label="c") == 1


def test_labels_are_bounded_and_one_class_is_no_error():
    metrics = Metrics(workers=1)
    names = tuple(f"class {i}" for i in range(MAX_LABELS + 50))
    QualitySignals(metrics, 0.0, lambda: True).record(_model(names), np.eye(len(names)))
    (family,) = metrics.predictions.collect()
    counts = {s.labels["label"]: s.value for s in family.samples if s.name.endswith("_total")}
    assert len(counts) == MAX_LABELS + 1
    assert counts[OTHER] == 50
    QualitySignals(metrics, 0.0, lambda: True).record(_model(("only",)), np.ones((1, 1)))
    assert _value(metrics, "abnn_predictions_total", label="only") == 1


def test_drift_is_measured_only_while_the_sessions_are_idle(bundle):
    metrics, idle = Metrics(workers=1), False
    meter = CpuDriftMeter(bundle)
    signals = QualitySignals(metrics, 1.0, lambda: idle)
    samples = bundle.golden.inputs[:3]

    async def run() -> None:
        nonlocal idle
        task = asyncio.create_task(signals.measure_drift())
        signals.sample(_model(bundle.labels.names, meter), list(samples))
        await asyncio.sleep(0.2)
        assert _value(metrics, "abnn_drift_count") == 0
        idle = True
        while _value(metrics, "abnn_drift_count") < len(samples):  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        task.cancel()

    asyncio.run(asyncio.wait_for(run(), 20))
    expected = DriftMeter(Session(bundle, "cpu", threads=1)).run(samples)[1].mean(axis=1).sum()
    assert _value(metrics, "abnn_drift_sum") == pytest.approx(float(expected), rel=1e-4)
    signals.close()


def test_a_share_of_the_samples_is_kept_and_no_more_than_a_few():
    signals = QualitySignals(Metrics(workers=1), 0.1, lambda: False)
    model = _model(("a",), drift=object())
    signals.sample(model, [np.zeros(1, np.uint8)] * 20)
    assert len(signals._worker._waiting) <= 8
    signals.sample(model, [np.zeros(1, np.uint8)] * 1000)
    assert len(signals._worker._waiting) == 16
    signals.sample(_model(("a",)), [np.zeros(1, np.uint8)] * 1000)  # no recorded statistics
    assert all(kept is model for kept, _ in signals._worker._waiting)


@pytest.mark.parametrize(("below", "abstained"), [("0", False), ("1.0", True), ("1e-3", False)])
def test_a_request_can_ask_for_abstention(client, below, abstained):
    answer = client.post("/classify", params={"abstain_below": below}, files={"image": PICTURE}).json()
    assert answer["abstained"] is abstained
    assert answer["label"]
    (outcome,) = client.post("/classify_batch", params={"abstain_below": below}, files={"images": PICTURE}).json()[
        "outcomes"
    ]
    assert outcome["abstained"] is abstained
    assert "abstained" not in client.post("/classify", files={"image": PICTURE}).json()


@pytest.mark.parametrize("below", ["", "x", "nan", "-0.1", "1.01", "1e400", "0.5" * 50])
def test_a_threshold_that_is_no_probability_is_refused(client, below):
    answer = client.post("/classify", params={"abstain_below": below}, files={"image": PICTURE})
    assert answer.status_code == 400
    assert answer.json()["error"]["field"] == "abstain_below"
