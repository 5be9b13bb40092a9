from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from abnn_serve.errors import ConfigError, InputError, InputShapeError
from abnn_serve.runtime.prediction_json import prediction_json
from abnn_serve.runtime.predictor import Predictor
from abnn_serve.runtime.settings import DEFAULT_BUNDLE, default_bundle
from tests.drawing import draw_shape, encode_video, png

TOLERANCE = 1e-5


def _logits(predictor: Predictor, images: np.ndarray) -> np.ndarray:
    return np.stack([prediction.logits for prediction in predictor.predict(images)])


def _hostile(count: int, rng: np.random.Generator) -> np.ndarray:
    """Black, white, checkerboards and noise: the extremes of what eight bits can say."""
    kinds = [
        np.zeros((32, 32, 3), np.uint8),
        np.full((32, 32, 3), 255, np.uint8),
        (np.indices((32, 32)).sum(0) % 2 * 255).astype(np.uint8)[..., None].repeat(3, 2),
        rng.integers(0, 256, (32, 32, 3), dtype=np.uint8),
    ]
    return np.stack([kinds[int(rng.integers(len(kinds)))] for _ in range(count)])


@pytest.mark.parametrize("seed", range(5))
def test_a_samples_logits_are_the_same_alone_in_a_batch_in_any_order_and_beside_hostile_neighbours(
    predictor, val_data, seed
):
    rng = np.random.default_rng(seed)
    sample = val_data.images[:8]
    alone = np.concatenate([_logits(predictor, image[None]) for image in sample])
    order = rng.permutation(8)
    before, after = (_hostile(int(rng.integers(1, 40)), rng) for _ in range(2))
    crowd = np.concatenate([before, sample, after])
    assert np.abs(_logits(predictor, sample) - alone).max() <= TOLERANCE
    assert np.abs(_logits(predictor, sample[order]) - alone[order]).max() <= TOLERANCE
    assert np.abs(_logits(predictor, crowd)[len(before) : len(before) + 8] - alone).max() <= TOLERANCE


def test_top_k_limits_the_classes_named(predictor, val_data):
    assert len(predictor.predict(val_data.images[:1], top_k=2)[0].top) == 2
    assert len(predictor.predict(val_data.images[:1], top_k=99)[0].top) == 3
    with pytest.raises(ConfigError, match="top_k is 0, expected at least 1"):
        predictor.predict(val_data.images[:1], top_k=0)


def test_no_samples_give_no_answers(predictor):
    assert predictor.predict([]) == []


def test_samples_of_different_sizes_are_refused(predictor):
    with pytest.raises(InputShapeError, match="2 different shapes"):
        predictor.predict([np.zeros((32, 32, 3), np.uint8), np.zeros((16, 16, 3), np.uint8)])


def test_an_answer_is_rounded_once_for_every_reader(predictor, val_data):
    shown = prediction_json(predictor.predict(val_data.images[:1])[0])
    assert shown["top"][0] == {key: shown[key] for key in ("label", "index", "probability")}
    assert all(round(row["probability"], 6) == row["probability"] for row in shown["top"])


def test_bytes_are_decoded_to_the_models_input(predictor):
    image = predictor.decode(png(draw_shape(0, np.random.default_rng(0), 100)))
    assert image.shape == (32, 32, 3)
    with pytest.raises(InputError):
        predictor.decode(b"not an image")


@pytest.mark.data
@pytest.mark.parametrize(
    ("name", "least"), [(DEFAULT_BUNDLE, 0.76), pytest.param("cifar10-abnn", 0.85, marks=pytest.mark.slow)]
)
def test_a_bundle_that_comes_along_reaches_the_accuracy_on_its_card(cifar10_test, name, least):
    shipped = Predictor.open(default_bundle(name), device="cpu")
    card = shipped.bundle.card
    assert card.data_digest == cifar10_test.digest
    answers = shipped.predict(cifar10_test.images, top_k=1)
    correct = sum(a.top[0].index == label for a, label in zip(answers, cifar10_test.labels, strict=True))
    assert card.clean.n == 10_000
    assert card.clean.value >= least
    assert abs(correct - card.clean.correct) <= 2  # other processors round the last digit otherwise


DECODE_IN_LITTLE_MEMORY = """
import os, resource, sys
from pathlib import Path
from abnn_serve.errors import TooCostlyError
from abnn_serve.runtime.predictor import Predictor

predictor = Predictor.open(sys.argv[1], device="cpu")
decode = getattr(predictor, sys.argv[2])
small, large = (Path(name).read_bytes() for name in sys.argv[3:])
decode(small)  # imports what decoding needs
used = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
resource.setrlimit(resource.RLIMIT_AS, (used + 15_000_000, used + 15_000_000))
try:
    decode(large)
except TooCostlyError as error:
    print(error)
"""


@pytest.mark.parametrize("what", ["image", "video"])
def test_a_file_whose_decoding_needs_more_memory_than_there_is_gets_an_error(what, bundle, video_bundle, tmp_path):
    if what == "image":
        served, files = bundle, [png(Image.new("RGB", (side, side))) for side in (32, 4000)]
    else:
        served = video_bundle
        files = [encode_video(np.zeros((2, side, side, 3), np.uint8), codec="mpeg4") for side in (32, 2400)]
    for name, data in zip(("small", "large"), files, strict=True):
        (tmp_path / name).write_bytes(data)
    arguments = ["decode" if what == "image" else "decode_video", tmp_path / "small", tmp_path / "large"]
    command = [sys.executable, "-c", DECODE_IN_LITTLE_MEMORY, served.path, *arguments]
    result = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=True)
    assert result.stdout.startswith(f"decoding the {what} takes more memory than this process can get")
