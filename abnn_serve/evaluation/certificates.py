"""Certificates of many samples: computed in batches, by several processes, and kept on disk to resume from."""

from __future__ import annotations

import hashlib
import multiprocessing as mp
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from abnn_serve.answer import Answer
from abnn_serve.arrays import batch_slices
from abnn_serve.bundle.manifest import MANIFEST
from abnn_serve.bundle.store import load_bundle
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
    """The logits of a bundle's session, or of a run's network, with one thread; from pixels in units of uint8."""
    if (path / MANIFEST).is_file():
        return Session(load_bundle(path), "cpu", 1).run
    torch.set_num_threads(1)
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
    path: Path,
    answers: Sequence[Answer],
    data: ImageData,
    *,
    identity: str,
    jobs: int = 1,
    store: Path,
    on_progress: Callable[[int, int], None] = lambda *_: None,
) -> list[Certificates]:
    """Certify all samples by each rule; a call with the arguments of an interrupted one resumes it.

    Args:
        path: a bundle or a run.
        answers: the rules.
        data: the samples.
        identity: tells networks apart, such as the digest of the weights.
        jobs: number of processes, each with one thread; 1 uses this process.
        store: folder that keeps finished batches.
        on_progress: called after each batch with the number of samples done and the number in all.
    """
    store.mkdir(parents=True, exist_ok=True)
    tasks = [(answer, batch) for answer in answers for batch in batch_slices(len(data), data.chunk(_BATCH))]
    files = [store / f"{_key(identity, data, answer)}-{batch.start:06}.npz" for answer, batch in tasks]
    missing = [(task, file) for task, file in zip(tasks, files, strict=True) if not file.is_file()]
    done = sum(batch.stop - batch.start for (_, batch), file in zip(tasks, files, strict=True) if file.is_file())
    on_progress(done, len(data) * len(answers))
    for samples in _run(path, data, missing, jobs):
        done += samples
        on_progress(done, len(data) * len(answers))
    count = len(files) // len(answers)
    return [Certificates.join([_load(file) for file in files[part]]) for part in batch_slices(len(files), count)]


_Task = tuple[tuple[Answer, slice], Path]
_logits: Logits | None = None


def _run(path: Path, data: ImageData, tasks: list[_Task], jobs: int) -> Iterator[int]:
    """Run tasks and save their results; yields the number of samples of each."""
    if jobs == 1 or len(tasks) < 2:
        logits = open_logits(path) if tasks else None
        for (answer, batch), file in tasks:
            assert logits is not None  # noqa: S101
            _save(file, certificates_of(logits, answer, data.images[batch]))
            yield batch.stop - batch.start
        return
    with ProcessPoolExecutor(min(jobs, len(tasks)), mp.get_context("spawn"), _start, (path,)) as pool:
        futures: list[Future[Certificates]] = [
            pool.submit(_certify, answer, np.ascontiguousarray(data.images[batch])) for (answer, batch), _ in tasks
        ]
        try:
            for ((_, batch), file), future in zip(tasks, futures, strict=True):
                _save(file, future.result())
                yield batch.stop - batch.start
        finally:
            pool.shutdown(cancel_futures=True)


def _start(path: Path) -> None:
    global _logits  # noqa: PLW0603 - set once per process
    _logits = open_logits(path)


def _certify(answer: Answer, images: NDArray[np.uint8]) -> Certificates:
    assert _logits is not None  # noqa: S101
    return certificates_of(_logits, answer, images)


def _key(identity: str, data: ImageData, answer: Answer) -> str:
    return hashlib.sha256(f"{identity} {data.digest} {data.chunk(_BATCH)} {answer!r}".encode()).hexdigest()[:20]


def _save(path: Path, certificates: Certificates) -> None:
    with atomic_write(path) as file:
        arrays: dict[str, Any] = {name: getattr(certificates, name) for name in Certificates.__slots__}
        np.savez(file, **arrays)


def _load(path: Path) -> Certificates:
    with np.load(path, allow_pickle=False) as arrays:
        return Certificates(**{name: arrays[name] for name in Certificates.__slots__})
