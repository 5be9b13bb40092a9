"""Trials of an evaluation, their outcomes, and the store that keeps finished batches on disk."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from abnn_serve.card import Accuracy, AttackResult, ThreatModel
from abnn_serve.evaluation.served import to_uint8
from abnn_serve.files import atomic_write
from abnn_serve.lab.attacks.base import Attack
from abnn_serve.lab.data.dataset import ImageData


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """One attack in one threat model; `seed` decides every random choice of the attack."""

    threat_model: ThreatModel
    attack: Attack
    seed: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """The result of a trial on N samples.

    Attributes:
        is_correct: samples that are still classified correctly, bool (N,).
        images: the attacked samples, float32 (N, 3, [T,] H, W) in [0, 1].
        seconds: time that the attack took.
        flags: warnings that AutoAttack raised about its own figure.
    """

    trial: Trial
    is_correct: NDArray[np.bool_]
    images: NDArray[np.float32]
    seconds: float
    flags: tuple[str, ...] = ()

    @classmethod
    def join(cls, batches: Sequence[Outcome]) -> Outcome:
        """The outcome of a trial from those of its batches, in order."""
        return cls(
            trial=batches[0].trial,
            is_correct=np.concatenate([batch.is_correct for batch in batches]),
            images=np.concatenate([batch.images for batch in batches]),
            seconds=sum(batch.seconds for batch in batches),
            flags=tuple(sorted({flag for batch in batches for flag in batch.flags})),
        )

    @property
    def pixels(self) -> NDArray[np.uint8]:
        """The attacked samples as a client sends them: the nearest uint8 (N, [T,] H, W, 3)."""
        return to_uint8(torch.from_numpy(self.images))

    @property
    def row(self) -> AttackResult:
        """The row of the card."""
        attack = self.trial.attack
        return AttackResult(
            threat_model=self.trial.threat_model,
            attack=attack.name,
            norm=attack.norm,
            eps=attack.eps,
            parameters=attack.parameters,
            seed=self.trial.seed,
            accuracy=Accuracy.of(self.is_correct),
            seconds=round(self.seconds, 1),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far an evaluation is: `done` of `samples` in trial `number` (from 1) of `trials`; `accuracy` is on `done`.

    `finished` counts the samples of all trials: with several processes, a trial may begin before another ends.
    """

    trial: Trial
    number: int
    trials: int
    done: int
    samples: int
    finished: int
    accuracy: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """Every trial's outcome on the same N samples; `clean` flags those classified correctly unattacked, bool (N,)."""

    data: ImageData
    clean: NDArray[np.bool_]
    outcomes: tuple[Outcome, ...] = field(default=())

    @property
    def worst(self) -> dict[ThreatModel, Accuracy]:
        """Accuracy per threat model under the worst of its Linf and L2 trials for each sample; patches are excluded."""
        return {threat: Accuracy.of(flags) for threat, flags in self.worst_flags.items()}

    @property
    def worst_flags(self) -> dict[ThreatModel, NDArray[np.bool_]]:
        """Samples that survive every Linf and L2 trial of a threat model, bool (N,)."""
        is_correct: dict[ThreatModel, NDArray[np.bool_]] = {}
        for outcome in self.outcomes:
            if outcome.trial.attack.norm != "patch":
                threat = outcome.trial.threat_model
                is_correct[threat] = is_correct.get(threat, self.clean) & outcome.is_correct
        return is_correct


class OutcomeStore:
    """Finished batches of one trial in a folder; file names contain a digest of the trial and of `identity`."""

    def __init__(self, folder: Path, trial: Trial, identity: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        key = hashlib.sha256(f"{identity} {trial}".encode()).hexdigest()[:20]
        self.stem, self.trial = folder / key, trial

    def _path(self, start: int) -> Path:
        return self.stem.with_name(f"{self.stem.name}-{start:06}.npz")

    def load(self, start: int) -> Outcome | None:
        """The batch that begins at sample `start`, or None if it is not finished."""
        if not self._path(start).is_file():
            return None
        with np.load(self._path(start), allow_pickle=False) as arrays:
            return Outcome(
                trial=self.trial,
                is_correct=arrays["right"],
                images=arrays["images"],
                seconds=float(arrays["seconds"]),
                flags=tuple(map(str, arrays["flags"])),
            )

    def save(self, start: int, batch: Outcome) -> None:
        """Write the batch that begins at sample `start`, atomically."""
        with atomic_write(self._path(start)) as file:
            np.savez(
                file,
                right=batch.is_correct,
                images=batch.images,
                seconds=np.asarray(batch.seconds),
                flags=np.asarray(batch.flags, dtype=np.str_),
            )
