"""Certificates of many samples: computed in batches, which processes may share, and kept on disk to resume from."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from abnn_serve.answer import Answer
from abnn_serve.arrays import batch_slices
from abnn_serve.bundle.manifest import MANIFEST
from abnn_serve.bundle.store import load_bundle
from abnn_serve.evaluation.workers import Workers
from abnn_serve.files import atomic_write
from abnn_serve.lab.abnn.network import ServedNetwork, torch_logits
from abnn_serve.lab.data.dataset import ImageData
from abnn_serve.lab.training.run import Run
from abnn_serve.runtime.rules.base import Logits, answer_all
from abnn_serve.runtime.rules.choose import make_rule
from abnn_serve.runtime.session import Session

_BATCH = 20  # images, or frames of clips, between two writes to disk


@dataclass(frozen=True, slots=True, kw_only=True)
class Certificates:
    """One rule's answers to N samples.

    Attributes:
        labels: int64 (N,), the answers.
        certified: bool (N,).
        radii: float64 (N,), in units of [0, 1] pixels; 0 for masks.
        passes: int64 (N,), passes of an answer with its certificate.
    """

    labels: NDArray[np.int64]
    certified: NDArray[np.bool_]
    radii: NDArray[np.float64]
    passes: NDArray[np.int64]

    @classmethod
    def join(cls, parts: Sequence[Certificates]) -> Certificates:
        """The certificates of consecutive batches."""
        return cls(**{name: np.concatenate([getattr(part, name) for part in parts]) for name in cls.__slots__})


def open_logits(path: Path) -> Logits:
    """The logits of a bundle's session with one thread, or of a run's network; from pixels in units of uint8."""
    if (path / MANIFEST).is_file():
        return Session(load_bundle(path), "cpu", 1).run
    served = ServedNetwork(Run(path).network()).eval()
    return lambda pixels: torch_logits(served, pixels)


def certificates_of(logits: Logits, answer: Answer, images: NDArray[np.uint8]) -> Certificates:
    """Certify samples, uint8 (N, [T,] H, W, 3)."""
    rule = make_rule(answer, (images.shape[-3], images.shape[-2]))
    answers = answer_all(rule, images, logits, certify=True)
    certificates = [each.certificate for each in answers if each.certificate]
    return Certificates(
        labels=np.array([each.label for each in answers]),
        certified=np.array([certificate.certified for certificate in certificates]),
        radii=np.array([certificate.radius or 0.0 for certificate in certificates]),
        passes=np.array([certificate.passes for certificate in certificates]),
    )


def certify_all(
    answers: Sequence[Answer],
    data: ImageData,
    *,
    identity: str,
    workers: Workers[Logits],
    store: Path,
    on_progress: Callable[[int, int], None] = lambda *_: None,
) -> list[Certificates]:
    """Certify all samples by each rule; a call with the arguments of an interrupted one resumes it.

    Args:
        answers: the rules.
        data: the samples.
        identity: tells networks apart, such as the digest of the weights.
        workers: compute the certificates.
        store: folder that keeps finished batches.
        on_progress: called after each batch with the number of samples done and the number in all.
    """
    store.mkdir(parents=True, exist_ok=True)
    tasks = [(answer, batch) for answer in answers for batch in batch_slices(len(data), data.chunk(_BATCH))]
    files = [store / f"{_key(identity, data, answer)}-{batch.start:06}.npz" for answer, batch in tasks]
    missing = [(task, file) for task, file in zip(tasks, files, strict=True) if not file.is_file()]
    done = len(data) * len(answers) - sum(batch.stop - batch.start for (_, batch), _ in missing)
    on_progress(done, len(data) * len(answers))
    parts = [partial(certificates_of, answer=answer, images=data.images[batch]) for (answer, batch), _ in missing]
    for position, certificates in workers.run(parts):
        _save(missing[position][1], certificates)
        done += len(certificates.labels)
        on_progress(done, len(data) * len(answers))
    count = len(files) // len(answers)
    return [Certificates.join([_load(file) for file in files[part]]) for part in batch_slices(len(files), count)]


def _key(identity: str, data: ImageData, answer: Answer) -> str:
    return hashlib.sha256(f"{identity} {data.digest} {data.chunk(_BATCH)} {answer!r}".encode()).hexdigest()[:20]


def _save(path: Path, certificates: Certificates) -> None:
    with atomic_write(path) as file:
        arrays: dict[str, Any] = {name: getattr(certificates, name) for name in Certificates.__slots__}
        np.savez(file, **arrays)


def _load(path: Path) -> Certificates:
    with np.load(path, allow_pickle=False) as arrays:
        return Certificates(**{name: arrays[name] for name in Certificates.__slots__})
