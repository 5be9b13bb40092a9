"""Attacked images on a bundle: the accuracy of its other precisions, and how well drift detects the attack."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from abnn_serve.bundle.store import Bundle
from abnn_serve.card import Accuracy, Drift, DriftUnderAttack, Variant
from abnn_serve.errors import DeviceError
from abnn_serve.evaluation.outcomes import Evaluation
from abnn_serve.runtime.cuda import CUDA
from abnn_serve.runtime.drift import DriftMeter
from abnn_serve.runtime.engine import CPU
from abnn_serve.runtime.open_vino import NAME as OPENVINO
from abnn_serve.runtime.session import Session
from abnn_serve.runtime.settings import Device

_DEVICES: dict[str, Device] = {CPU: "cpu", OPENVINO: "openvino", CUDA: "cuda"}


def with_robust_accuracy(bundle: Bundle, evaluation: Evaluation) -> tuple[Variant, ...]:
    """The card's variants with their accuracy on the white-box images of `evaluation`, rounded to uint8.

    `robust` is None without such images, and for a variant whose engine this machine lacks.
    """
    trials = [o for o in evaluation.outcomes if o.trial.threat_model == "whitebox" and o.trial.attack.norm != "patch"]
    if not trials:
        return tuple(replace(variant, robust=None) for variant in bundle.card.variants)
    variants = []
    for variant in bundle.card.variants:
        is_correct = np.ones(len(evaluation.data), bool)
        try:
            session = Session(bundle, _DEVICES.get(variant.provider, "cuda"), precision=variant.precision)
        except DeviceError:
            variants.append(replace(variant, robust=None))
            continue
        for outcome in trials:
            is_correct &= session.run(outcome.pixels).argmax(axis=1) == evaluation.data.labels
        variants.append(replace(variant, robust=Accuracy.of(is_correct)))
    return tuple(variants)


def with_attacked_drift(bundle: Bundle, evaluation: Evaluation) -> Drift | None:
    """The card's drift with the AUROC of every white-box trial, over correctly classified images, as uint8.

    None if the card has no drift; without white-box trials, `attacks` is empty.
    """
    recorded, is_correct = bundle.card.drift, evaluation.clean
    trials = [outcome for outcome in evaluation.outcomes if outcome.trial.threat_model == "whitebox"]
    if recorded is None or not trials or not is_correct.any():
        return recorded and replace(recorded, attacks=())
    meter = DriftMeter(Session(bundle, "cpu"))
    clean = meter.run(evaluation.data.images[is_correct])[1].mean(axis=1)
    rows = []
    for outcome in trials:
        area = auroc(clean, meter.run(outcome.pixels[is_correct])[1].mean(axis=1))
        attack = outcome.trial.attack
        rows.append(DriftUnderAttack(attack=attack.name, eps=attack.eps, images=len(clean), auroc=round(area, 4)))
    return replace(recorded, attacks=tuple(rows))


def auroc(low: NDArray[np.float32], high: NDArray[np.float32]) -> float:
    """Area under the ROC curve: the share of pairs whose second value is larger; ties count half."""
    ordered = np.sort(low)
    below, not_above = (np.searchsorted(ordered, high, side=side) for side in ("left", "right"))
    return float((below + not_above).mean() / (2 * len(low)))
