"""A prediction as plain values to show: the same digits in HTTP answers and on the command line."""

from __future__ import annotations

from typing import Any

from abnn_serve.runtime.predictor import Prediction

DIGITS = 6


def answer(prediction: Prediction) -> dict[str, Any]:
    """Label, index and probability (rounded to DIGITS) of the best class, and the same for each of the top classes."""
    top = [
        {"label": score.label, "index": score.index, "probability": round(score.probability, DIGITS)}
        for score in prediction.top
    ]
    return {**top[0], "top": top}
