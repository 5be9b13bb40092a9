"""Temperature scaling (Guo et al. 2017): probabilities that mean what they say, fitted on held-out data.

The logits of a bundle are divided by a temperature before the softmax, which leaves the most probable class as it is.
Half of the data fits the temperature, the other half measures the expected calibration error before and after.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from abnn_serve.arrays import batch_slices
from abnn_serve.bundle.manifest import Calibration, format_version_of
from abnn_serve.bundle.store import Bundle, pack_json, write_bundle
from abnn_serve.card import Accuracy, CalibrationResult
from abnn_serve.errors import ExportError
from abnn_serve.lab.data.dataset import ImageData
from abnn_serve.lab.data.load import agree
from abnn_serve.runtime.session import Session
from abnn_serve.runtime.verify import check_graphs

BINS = 15
LOWEST, HIGHEST = 0.05, 20.0
_STEPS = 60
_GOLDEN = (math.sqrt(5) - 1) / 2


def calibrate(bundle: Bundle, data: ImageData, *, abstain_below: float | None = None) -> Bundle:
    """Fit a temperature on data that the network was not trained on, and write it into the bundle and its card.

    This changes the digest of the bundle and removes a signature.

    Args:
        bundle: a bundle without an answer rule; an earlier calibration is replaced.
        data: held-out images or videos with the classes of the bundle.
        abstain_below: probability of the predicted class, 0 to 1, below which the bundle abstains; None never abstains.

    Raises:
        ExportError: too few samples, another input, or a bundle with an answer rule.
    """
    manifest = bundle.manifest
    if manifest.answer:
        raise ExportError(f"{bundle.path} answers by a rule ({manifest.answer}), which has no temperature")
    if data.images.shape[1:] != manifest.input.shape:
        raise ExportError(f"the data has samples of shape {data.images.shape[1:]}, expected {manifest.input.shape}")
    data = agree(bundle.labels, data)
    session = Session(bundle, "cpu")
    batches = batch_slices(len(data), data.chunk(500))
    logits = np.concatenate([session.run(np.ascontiguousarray(data.images[batch])) for batch in batches])
    calibration, result = fit_calibration(logits, data, abstain_below)
    files = {name: bundle.read(name) for name in manifest.files}
    files["card.json"] = pack_json(replace(bundle.card, calibration=result))
    version = format_version_of(manifest.input, None, calibration)
    return write_bundle(
        bundle.path,
        files,
        lambda entries: replace(manifest, files=entries, calibration=calibration, format_version=version),
        check=check_graphs,
    )


def fit_calibration(
    logits: NDArray[np.float32], data: ImageData, abstain_below: float | None
) -> tuple[Calibration, CalibrationResult]:
    """Fit on every other image or video of the data, and measure on the rest.

    Args:
        logits: of one pass over every sample of `data`, float32 (N, classes).
        data: the samples.
        abstain_below: as for `calibrate`.

    Raises:
        ExportError: fewer than two images or videos.
    """
    fitted = np.arange(len(data.by_video(logits[:, :1])[1])) % 2 == 0
    if not 0 < fitted.sum() < len(fitted):
        raise ExportError(f"calibration needs at least two images or videos, the data has {len(fitted)}")

    def scores(temperature: float, part: NDArray[np.bool_]) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        probabilities, labels = data.by_video((logits / np.float32(temperature)).astype(np.float32))
        return probabilities[part], labels[part]

    temperature = round(fit_temperature(lambda value: negative_log_likelihood(*scores(value, fitted))), 4)
    before, labels = scores(1.0, ~fitted)
    after, _ = scores(temperature, ~fitted)
    answered = after.max(axis=1) >= (abstain_below or 0.0)
    is_correct = after[answered].argmax(axis=1) == labels[answered]
    result = CalibrationResult(
        data=data.name,
        fitted=int(fitted.sum()),
        measured=len(labels),
        bins=BINS,
        ece_before=expected_calibration_error(before, labels),
        ece_after=expected_calibration_error(after, labels),
        nll_before=negative_log_likelihood(before, labels),
        nll_after=negative_log_likelihood(after, labels),
        abstained=None if abstain_below is None else int((~answered).sum()),
        answered=None if abstain_below is None or not answered.any() else Accuracy.of(is_correct),
    )
    return Calibration(temperature=temperature, abstain_below=abstain_below), result


def fit_temperature(loss: Callable[[float], float]) -> float:
    """The temperature from LOWEST to HIGHEST with the least loss, by golden-section search over its logarithm."""
    low, high = math.log(LOWEST), math.log(HIGHEST)
    inner = high - _GOLDEN * (high - low), low + _GOLDEN * (high - low)
    losses = loss(math.exp(inner[0])), loss(math.exp(inner[1]))
    for _ in range(_STEPS):
        if high - low < 1e-5:
            break
        if losses[0] < losses[1]:
            high, inner = inner[1], (inner[1] - _GOLDEN * (inner[1] - low), inner[0])
            losses = loss(math.exp(inner[0])), losses[0]
        else:
            low, inner = inner[0], (inner[1], inner[0] + _GOLDEN * (high - inner[0]))
            losses = losses[1], loss(math.exp(inner[1]))
    return math.exp((low + high) / 2)


def negative_log_likelihood(probabilities: NDArray[np.float64], labels: NDArray[np.int64]) -> float:
    """Mean over samples of -log of the label's probability; probabilities (N, classes)."""
    chosen = probabilities[np.arange(len(labels)), labels]
    return float(-np.log(np.maximum(chosen, np.finfo(np.float64).tiny)).mean())


def expected_calibration_error(probabilities: NDArray[np.float64], labels: NDArray[np.int64]) -> float:
    """Difference of confidence and accuracy, as the mean over equally wide bins of confidence weighted by samples."""
    confidence, is_correct = probabilities.max(axis=1), probabilities.argmax(axis=1) == labels
    bins = np.minimum((confidence * BINS).astype(np.int64), BINS - 1)
    gaps = np.bincount(bins, confidence - is_correct, minlength=BINS)
    return float(np.abs(gaps).sum() / len(labels))
