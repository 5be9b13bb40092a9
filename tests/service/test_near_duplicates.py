"""Near-duplicate samples as a sign of query attacks: the sketch, its window, and what a server answers."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from abnn_serve.service.near_duplicates import ALARM, CALLERS, SECONDS, TOLERANCE, WINDOW, NearDuplicates, sketch
from tests.drawing import draw_shape, png

RNG = np.random.default_rng(5)


def _image(size: int = 32) -> np.ndarray:
    return RNG.integers(8, 248, (size, size, 3), dtype=np.uint8)


def _near(image: np.ndarray) -> np.ndarray:
    return (image + RNG.integers(-8, 9, image.shape)).astype(np.uint8)


@pytest.mark.parametrize("shape", [(32, 32, 3), (224, 224, 3), (17, 45, 3), (3, 5, 3), (8, 16, 16, 3)])
def test_samples_within_the_budget_have_similar_sketches_at_every_size(shape):
    image = RNG.integers(8, 248, shape, dtype=np.uint8)
    a, b = sketch(np.clip(image + 8, 0, 255).astype(np.uint8)), sketch((image - 8).astype(np.uint8))
    assert a.shape == (48,)
    assert np.abs(a - b).max() <= TOLERANCE + 1  # rounding
    assert sketch(np.full(shape, 200, np.uint8)).tolist() == [200] * 48


def test_the_sketch_of_a_small_image_is_the_mean_of_each_cell():
    image = _image()
    assert sketch(image).tolist() == image.reshape(4, 8, 4, 8, 3).mean((1, 3)).round().astype(int).ravel().tolist()


def test_queries_near_one_image_add_up_and_other_images_and_callers_do_not():
    meter, image = NearDuplicates(), _image()
    assert [meter.observe("a", _near(image)) for _ in range(5)] == [0, 1, 2, 3, 4]
    gradient = np.linspace(0, 255, 32).astype(np.uint8)[:, None, None]
    assert meter.observe("a", np.broadcast_to(gradient, (32, 32, 3))) == 0
    assert meter.observe("b", _near(image)) == 0


def test_the_same_sample_again_reveals_nothing_and_does_not_count():
    meter, image = NearDuplicates(), _image()
    assert [meter.observe("a", image) for _ in range(100)] == [0] * 100
    assert meter.observe("a", _near(image)) == 1
    assert meter.observe("a", image) == 1


def test_old_samples_are_forgotten_and_memory_is_bounded():
    now = [0.0]
    meter, image = NearDuplicates(lambda: now[0]), _image()
    counts = [meter.observe("a", _near(image)) for _ in range(WINDOW + 50)]
    assert max(counts) == counts[-1] == WINDOW
    now[0] += SECONDS
    assert meter.observe("a", _near(image)) == 0
    for caller in range(CALLERS):
        meter.observe(f"caller {caller}", image)
    assert meter.observe("a", _near(image)) == 0
    assert len(meter._windows) == CALLERS


def test_a_caller_with_many_similar_samples_gets_labels_alone_and_is_counted(operated):
    image = np.clip(draw_shape(1, np.random.default_rng(21)), 8, 247)
    answers = [
        operated.post("/classify?version=1&abstain_below=0.5", files={"image": png(Image.fromarray(_near(image)))})
        for _ in range(ALARM + 8)
    ]
    told = [answer.json() for answer in answers]
    assert "probability" in told[0]
    assert set(told[-1]) == {"label", "index", "label_only", "model", "provider"}
    assert told[-1]["label_only"] is True
    pixels = {"name": "image", "datatype": "UINT8", "shape": [1, 32, 32, 3], "data": _near(image).ravel().tolist()}
    logits = operated.post("/v2/models/shapes/versions/1/infer", json={"inputs": [pixels]}).json()["outputs"][0]["data"]
    assert sorted(logits) == [0.0, 0.0, 1.0]
    (outcome,) = operated.post("/classify_batch", files={"images": png(Image.fromarray(_near(image)))}).json()[
        "outcomes"
    ]
    assert set(outcome) == {"label", "index", "label_only"}
    text = operated.get("/metrics").text
    assert 'abnn_suspicious_samples_total{key=""}' in text
    schema = operated.get("/openapi.json").json()["paths"]["/classify"]["post"]["responses"]["200"]
    assert [kind["required"][-1] for kind in schema["content"]["application/json"]["schema"]["anyOf"]] == [
        "provider"
    ] * 2
