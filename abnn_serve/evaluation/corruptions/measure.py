"""Accuracy of a subject under every corruption and severity."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from abnn_serve.arrays import batch_slices
from abnn_serve.card import Accuracy, CorruptionResult, Corruptions
from abnn_serve.card.accuracy import Z95
from abnn_serve.evaluation.corruptions.constants import CORRUPTIONS, SEVERITIES, constants_for
from abnn_serve.evaluation.corruptions.corrupt import corrupt
from abnn_serve.evaluation.served import ServedModel
from abnn_serve.evaluation.threats import Subject
from abnn_serve.evaluation.trials import identity_of
from abnn_serve.evaluation.workers import ThisProcess, Workers
from abnn_serve.files import atomic_write
from abnn_serve.lab.attacks.base import Model, evaluating
from abnn_serve.lab.data.dataset import ImageData
from abnn_serve.lab.device import exact_fp32
from abnn_serve.lab.training.batches import to_input

_BATCH = 100  # images; for clips, frames


@exact_fp32()
def measure_corruptions(
    subject: Subject,
    data: ImageData,
    *,
    seed: int = 0,
    device: str = "cpu",
    store: Path | None = None,
    workers: Workers[Subject] | None = None,
    on_progress: Callable[[str, int], None] = lambda *_: None,
) -> Corruptions:
    """Classify `data` under fifteen corruptions at five severities, by the served model where there is one.

    Args:
        subject: the model, and perhaps its twin, to which mCE is relative.
        data: labelled samples, uint8.
        seed: random seed of the corruptions.
        device: torch device.
        store: directory that keeps finished corruptions: after a kill, the same call resumes from them.
        workers: run the corruptions; by default this process.
        on_progress: called with a corruption's name and the number of finished corruptions.

    Returns:
        the part of the card.
    """
    subject.move(device)
    identity = identity_of(subject, data)
    finished: dict[str, NDArray[np.bool_]] = {}

    def keep(name: str, flags: NDArray[np.bool_]) -> None:
        finished[name] = flags
        on_progress(name, len(finished))

    paths = {name: _path(store, f"{identity} {name} {seed}") for name in CORRUPTIONS}
    for name, path in paths.items():
        if path and path.is_file():
            keep(name, np.load(path, allow_pickle=False))
    missing = [name for name in CORRUPTIONS if name not in finished]
    parts = [partial(_flags, data, name, seed, device) for name in missing]
    for position, flags in (workers or ThisProcess(subject)).run(parts):
        name = missing[position]
        if path := paths[name]:
            with atomic_write(path) as file:
                np.save(file, flags)
        keep(name, flags)
    return _summary(np.stack([finished[name] for name in CORRUPTIONS]), data, seed)


def _flags(data: ImageData, name: str, seed: int, device: str, subject: Subject) -> NDArray[np.bool_]:
    """Which samples the subject, and its twin if there is one, classify correctly, bool (severities, models, N)."""
    subject.move(device)
    models = [answering_model(subject)]
    if subject.twin is not None:
        models.append(subject.twin)
    return correct_under(models, data, name, seed, device)


def answering_model(subject: Subject) -> Model:
    """The served model, or without one the network."""
    return subject.model if subject.served is None else ServedModel(subject.served)


def correct_under(
    models: Sequence[Model], data: ImageData, name: str, seed: int = 0, device: str = "cpu"
) -> NDArray[np.bool_]:
    """Which samples each model classifies correctly under a corruption, bool (severities, models, N)."""
    return np.stack([_at_severity(models, data, name, severity, seed, device) for severity in SEVERITIES])


def _at_severity(
    models: Sequence[Model], data: ImageData, name: str, severity: int, seed: int, device: str
) -> NDArray[np.bool_]:
    parts = []
    for batch in batch_slices(len(data), data.chunk(_BATCH)):
        images = corrupt(data.images[batch], name, severity, seed=seed, start=batch.start)
        parts.append(np.stack([_classes(model, images, device) == data.labels[batch] for model in models]))
    return np.concatenate(parts, axis=1)


@torch.no_grad()
def _classes(model: Model, images: NDArray[np.uint8], device: str) -> NDArray[np.int64]:
    with evaluating(model):
        classes: NDArray[np.int64] = model(to_input(images, device)).argmax(dim=1).cpu().numpy()
    return classes


def _path(store: Path | None, key: str) -> Path | None:
    """The file of `store` that keeps the flags of one corruption."""
    if store is None:
        return None
    store.mkdir(parents=True, exist_ok=True)
    return store / f"{hashlib.sha256(key.encode()).hexdigest()[:20]}-corruption.npy"


def _summary(flags: NDArray[np.bool_], data: ImageData, seed: int) -> Corruptions:
    """The card's figures from flags (corruptions, severities, models, N)."""
    shares = flags[:, :, 0].mean(axis=(0, 1))  # of each image
    mean, half = float(shares.mean()), Z95 * float(shares.std(ddof=1)) / len(shares) ** 0.5
    has_twin = flags.shape[2] > 1
    errors = (~flags).mean(axis=3).sum(axis=1)  # (corruptions, models)
    return Corruptions(
        constants=constants_for(*data.images.shape[-3:-1]),
        seed=seed,
        results=tuple(_results(flags)),
        mean=round(mean, 4),
        interval=(round(max(0.0, mean - half), 4), round(min(1.0, mean + half), 4)),
        mce=round(float((errors[:, 0] / errors[:, 1]).mean()), 4) if has_twin and (errors[:, 1] > 0).all() else None,
    )


def _results(flags: NDArray[np.bool_]) -> Iterator[CorruptionResult]:
    for name, of_name in zip(CORRUPTIONS, flags, strict=True):
        for severity, of_models in zip(SEVERITIES, of_name, strict=True):
            accuracies = [Accuracy.of(row) for row in of_models]
            yield CorruptionResult(
                corruption=name,
                severity=severity,
                accuracy=accuracies[0],
                twin=accuracies[1] if len(accuracies) > 1 else None,
            )
