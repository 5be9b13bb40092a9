"""Labels and probabilities of an answer, and a video's from those of its clips."""

from __future__ import annotations

import shutil

import numpy as np
import pytest

from abnn_serve.bundle.store import load_bundle
from abnn_serve.export.calibration import calibrate
from abnn_serve.lab.data.load import load_data
from abnn_serve.runtime.predictor import Predictor
from tests.conftest import CLIPS


def test_an_answer_names_classes_by_falling_probability(predictor, val_data):
    (prediction,) = predictor.predict(val_data.images[:1])
    probabilities = [score.probability for score in prediction.top]
    assert probabilities == sorted(probabilities, reverse=True)
    assert sum(probabilities) == pytest.approx(1)
    weights = np.exp(prediction.logits.astype(float))
    assert prediction.top[0].probability == pytest.approx(weights.max() / weights.sum())
    assert prediction.top[0].label == predictor.bundle.labels.names[int(prediction.logits.argmax())]


def test_a_video_has_the_mean_of_its_clips_calibrated_probabilities(video_bundle, tmp_path, videos):
    shutil.copytree(video_bundle.path, tmp_path / "clips")
    calibrated = calibrate(load_bundle(tmp_path / "clips"), load_data(videos["val"], CLIPS))
    predictor = Predictor.open(calibrated.path, device="cpu", threads=1)
    answers = predictor.answers(calibrated.golden.inputs[:2])
    clips = predictor.reader.probabilities(np.stack([answer.logits for answer in answers]))
    video = predictor.reader.video_prediction(answers, top_k=2)
    assert video.overall.top[0].probability == pytest.approx(clips.mean(axis=0).max(), rel=1e-5)
    assert video.clips[0].top[0].probability == pytest.approx(clips[0].max(), rel=1e-5)
