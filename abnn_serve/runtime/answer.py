"""A prediction as plain values to show: the same digits in HTTP answers and on the command line."""

from __future__ import annotations

from typing import Any

from abnn_serve.media.video import VideoClips
from abnn_serve.runtime.predictor import Prediction, VideoPrediction

DIGITS = 6


def answer(prediction: Prediction) -> dict[str, Any]:
    """Label, index and probability (rounded to DIGITS) of the best class, and the same for each of the top classes."""
    top = [
        {"label": score.label, "index": score.index, "probability": round(score.probability, DIGITS)}
        for score in prediction.top
    ]
    return {**top[0], "top": top}


def video_answer(prediction: VideoPrediction, video: VideoClips) -> dict[str, Any]:
    """As `answer`, of the whole video and of each clip, with its frames and their times; and how it decoded."""
    clips = [
        {
            "start": round(float(times[0]), 3),
            "end": round(float(times[-1]), 3),
            "frames": frames.tolist(),
            **answer(clip),
        }
        for clip, frames, times in zip(prediction.clips, video.frames, video.times, strict=True)
    ]
    frames = {"expected": video.expected, "found": video.found, "decoded": video.decoded, "lost": video.lost}
    return {**answer(prediction.whole), "clips": clips, "frames": frames, "seconds": round(video.seconds, 3)}
