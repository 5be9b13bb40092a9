"""Predictions as JSON values, with the same digits in HTTP responses and on the command line."""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import Any

from abnn_serve.media.video import VideoClips
from abnn_serve.runtime.predictions import Prediction, VideoPrediction

DIGITS = 6


def prediction_json(prediction: Prediction) -> dict[str, Any]:
    """Label, index and probability (rounded to DIGITS) of the best class, and of each of the top classes.

    Also `abstained` of a bundle with a threshold, and a requested `certificate`.
    """
    top = [
        {"label": score.label, "index": score.index, "probability": round(score.probability, DIGITS)}
        for score in prediction.top
    ]
    certificate = certificate_json(prediction) if prediction.certificate else {}
    abstained = {} if prediction.abstained is None else {"abstained": prediction.abstained}
    return {**top[0], "top": top, **abstained, **certificate}


def certificate_json(prediction: Prediction) -> dict[str, Any]:
    """`certificate`: what is proved; radius and confidence rounded down to DIGITS, as they are lower bounds."""
    certificate = prediction.certificate
    assert certificate is not None  # noqa: S101
    value: dict[str, Any] = {
        "kind": certificate.kind,
        "certified": certificate.certified,
        "passes": certificate.passes,
        "confidence": _rounded_down(certificate.confidence),
    }
    if certificate.patch:
        value["patch"] = list(certificate.patch)
    if certificate.radius is not None:
        value |= {
            "abstained": not certificate.certified,
            "radius": _rounded_down(certificate.radius),
            "sigma": certificate.sigma,
        }
    if prediction.views:
        value["views"] = [asdict(view) for view in prediction.views]
    return {"certificate": value}


def _rounded_down(value: float) -> float:
    levels: int = 10**DIGITS
    return math.floor(value * levels + 1e-6) / levels


def video_prediction_json(prediction: VideoPrediction, video: VideoClips) -> dict[str, Any]:
    """As `prediction_json` for the video and for each clip, with frame indices, times in seconds, and frame counts."""
    clips = [
        {
            "start": round(float(times[0]), 3),
            "end": round(float(times[-1]), 3),
            "frames": frames.tolist(),
            **prediction_json(clip),
        }
        for clip, frames, times in zip(prediction.clips, video.frames, video.times, strict=True)
    ]
    frames = {"expected": video.expected, "found": video.found, "decoded": video.decoded, "lost": video.lost}
    return {**prediction_json(prediction.overall), "clips": clips, "frames": frames, "seconds": round(video.seconds, 3)}
