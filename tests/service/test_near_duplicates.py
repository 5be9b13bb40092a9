"""Near-duplicate samples as a sign of query attacks: the sketch, its window, and what a server answers."""

from __future__ import annotations

import re

import numpy as np
import pytest
from PIL import Image

from abnn_serve.service.fingerprints import SKETCH, Fingerprint, sketch
from abnn_serve.service.metrics import Metrics
from abnn_serve.service.near_duplicates import (
    ALARM,
    CALLERS,
    SECONDS,
    TOLERANCE,
    WINDOW,
    Caller,
    NearDuplicates,
)
from tests.drawing import draw_shape, encode_video, png
from tests.service.server import wait_until

RNG = np.random.default_rng(5)
METRICS = Metrics(workers=1)


def _image(size: int = 32) -> np.ndarray:
    return RNG.integers(8, 248, (size, size, 3), dtype=np.uint8)


def _observe(meter: NearDuplicates, caller: str, *samples: np.ndarray) -> int:
    return meter.observe(caller, Fingerprint.of(samples))


def _near(image: np.ndarray) -> np.ndarray:
    return (image + RNG.integers(-8, 9, image.shape)).astype(np.uint8)


@pytest.mark.parametrize("shape", [(32, 32, 3), (224, 224, 3), (17, 45, 3), (3, 5, 3), (8, 16, 16, 3)])
def test_samples_within_the_budget_have_similar_sketches_at_every_size(shape):
    image = RNG.integers(8, 248, shape, dtype=np.uint8)
    a, b = sketch(np.clip(image + 8, 0, 255).astype(np.uint8)), sketch((image - 8).astype(np.uint8))
    assert a.shape == (SKETCH,)
    assert np.abs(a - b).max() <= TOLERANCE + 1  # rounding
    assert sketch(np.full(shape, 200, np.uint8)).tolist() == [200] * SKETCH


def test_the_sketch_of_a_small_image_is_the_mean_of_each_cell():
    image = _image()
    assert sketch(image).tolist() == image.reshape(4, 8, 4, 8, 3).mean((1, 3)).round().astype(int).ravel().tolist()


def test_queries_near_one_image_add_up_and_other_images_and_callers_do_not():
    meter, image = NearDuplicates(METRICS), _image()
    assert [_observe(meter, "a", _near(image)) for _ in range(5)] == [0, 1, 2, 3, 4]
    gradient = np.linspace(0, 255, 32).astype(np.uint8)[:, None, None]
    assert _observe(meter, "a", np.broadcast_to(gradient, (32, 32, 3))) == 0
    assert _observe(meter, "b", _near(image)) == 0


def test_the_same_sample_again_reveals_nothing_and_does_not_count():
    meter, image = NearDuplicates(METRICS), _image()
    assert [_observe(meter, "a", image) for _ in range(100)] == [0] * 100
    assert _observe(meter, "a", _near(image)) == 1
    assert _observe(meter, "a", image) == 1


def test_old_samples_are_forgotten_and_memory_is_bounded():
    now = [0.0]
    meter, image = NearDuplicates(METRICS, lambda: now[0]), _image()
    counts = [_observe(meter, "a", _near(image)) for _ in range(WINDOW + 50)]
    assert max(counts) == counts[-1] == WINDOW
    now[0] += SECONDS
    assert _observe(meter, "a", _near(image)) == 0
    for caller in range(CALLERS):
        _observe(meter, f"caller {caller}", image)
    assert _observe(meter, "a", _near(image)) == 0
    assert len(meter._windows) == CALLERS


def test_every_resembling_sample_is_found_and_no_other():
    meter, base, seen = NearDuplicates(METRICS), RNG.integers(20, 230, (4, 4, 3)), []
    for turn in range(600):
        cells = (
            base + RNG.choice([-8, 8]) + RNG.integers(0, 2, base.shape),
            base + RNG.integers(-20, 21, base.shape),
            RNG.integers(0, 256, (4, 4, 3)),
        )
        image = cells[turn % 3].clip(0, 255).astype(np.uint8)
        exact = sum(np.abs(image.astype(int) - other).max() <= TOLERANCE for other in seen[-WINDOW:])
        assert _observe(meter, "a", image) == exact
        seen.append(image.astype(int))


def test_the_clips_of_a_video_are_one_input():
    clips = [np.stack([_near(_image(16))] * 4) for _ in range(6)]
    video, other = Fingerprint.of(clips), Fingerprint.of([*clips[:-1], _near(clips[-1])])
    assert np.abs(video.sketch - np.mean([sketch(clip) for clip in clips], axis=0)).max() <= 0.5
    assert video.identity != other.identity
    assert video.identity == Fingerprint.of(clips).identity


def test_a_caller_may_have_an_alarm_of_its_own():
    meter, image = NearDuplicates(METRICS), _image()
    prints = [Fingerprint.of([_near(image)]) for _ in range(5)]
    assert meter.count(Caller(name="a", alarm=3), prints) == [False, False, False, True, True]
    assert meter.count(Caller(name="b", alarm=WINDOW + 1), prints) == [False] * 5


def test_a_video_counts_once_however_many_clips_it_has(server):
    def near() -> float:
        text = server.client.get("/metrics").text
        found = re.search(r'^abnn_near_duplicates_total{key="tests"} (\S+)', text, re.MULTILINE)
        return float(found[1]) if found else 0.0

    before, image = near(), np.full((48, 64, 3), 90, np.uint8)
    for level in range(4):
        video = encode_video([image + level] * 30)  # two clips
        assert len(server.client.post("/classify_video", files={"video": video}).json()["clips"]) == 2
    wait_until(lambda: near() >= before + 3)
    assert near() == before + 3


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
