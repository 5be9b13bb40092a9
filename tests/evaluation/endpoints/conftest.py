"""A tiny classifier behind the test's own server, and images labelled with its answers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.drawing import png, write_parquet
from tests.evaluation.endpoints.server import Behaviour

CLASSES = 3


def scores(pixels):
    """Logits by the mean colour of the left and of the right half, float32 (n, 3)."""
    weights = np.random.default_rng(3).normal(size=(6, CLASSES))
    halves = np.split(pixels.astype(np.float32) / 255 - 0.5, 2, axis=2)
    return (np.concatenate([half.mean(axis=(1, 2)) for half in halves], axis=1) @ weights * 20).astype(np.float32)


def probabilities(pixels):
    values = np.exp(scores(pixels))
    return values / values.sum(axis=1, keepdims=True)


@pytest.fixture(scope="session")
def coloured(tmp_path_factory) -> str:
    """32 images as Parquet, labelled as `scores` does."""
    folder = tmp_path_factory.mktemp("coloured")
    coarse = np.random.default_rng(5).integers(0, 256, (32, 2, 2, 3), dtype=np.uint8)
    images = np.stack([np.asarray(Image.fromarray(each).resize((32, 32), Image.Resampling.BICUBIC)) for each in coarse])
    labels = scores(images).argmax(axis=1)
    write_parquet(folder / "data.parquet", [png(Image.fromarray(image)) for image in images], labels)
    return str(folder / "data.parquet")


@pytest.fixture
def behaviour() -> Behaviour:
    return Behaviour(scores=scores)


@pytest.fixture
def out(tmp_path) -> Path:
    return tmp_path / "out"
