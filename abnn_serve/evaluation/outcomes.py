"""What is asked of an evaluation and what came of it: trials, their outcomes, and those kept on disk."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from abnn_serve.card import Accuracy, AttackResult, ThreatModel
from abnn_serve.evaluation.threats import to_uint8
from abnn_serve.files import atomic_write
from abnn_serve.lab.attacks.base import Attack
from abnn_serve.lab.data.dataset import ImageData


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """One attack in one threat model."""

    threat_model: ThreatModel
    attack: Attack
    seed: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What a trial did: which samples stayed right, bool (N,), and its images, float32 (N, 3, [T,] H, W)."""

    trial: Trial
    is_correct: NDArray[np.bool_]
    images: NDArray[np.float32]
    seconds: float
    flags: tuple[str, ...] = ()

    @property
    def pixels(self) -> NDArray[np.uint8]:
        """Its images as they are sent: the nearest uint8 (N, [T,] H, W, 3)."""
        return to_uint8(torch.from_numpy(self.images))

    @property
    def row(self) -> AttackResult:
        """The card's line."""
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
class Evaluation:
    """Clean answers and every trial's outcome on the same N samples."""

    data: ImageData
    clean: NDArray[np.bool_]
    outcomes: tuple[Outcome, ...] = field(default=())

    @property
    def worst(self) -> dict[ThreatModel, Accuracy]:
        """Accuracy under the worst of a threat model's Linf and L2 trials for each sample; patches stand apart."""
        is_correct: dict[ThreatModel, NDArray[np.bool_]] = {}
        for outcome in self.outcomes:
            if outcome.trial.attack.norm != "patch":
                threat = outcome.trial.threat_model
                is_correct[threat] = is_correct.get(threat, self.clean) & outcome.is_correct
        return {threat: Accuracy.of(flags) for threat, flags in is_correct.items()}


class OutcomeStore:
    """Finished batches of one trial on disk, named after everything that decides them."""

    def __init__(self, folder: Path, trial: Trial, identity: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        key = hashlib.sha256(f"{identity} {trial}".encode()).hexdigest()[:20]
        self.stem, self.trial = folder / key, trial

    def _path(self, start: int) -> Path:
        return self.stem.with_name(f"{self.stem.name}-{start:06}.npz")

    def load(self, start: int) -> Outcome | None:
        """The batch that begins at sample `start`, if it was finished."""
        if not self._path(start).is_file():
            return None
        with np.load(self._path(start), allow_pickle=False) as kept:
            return Outcome(
                trial=self.trial,
                is_correct=kept["right"],
                images=kept["images"],
                seconds=float(kept["seconds"]),
                flags=tuple(map(str, kept["flags"])),
            )

    def save(self, start: int, part: Outcome) -> None:
        """Keep a batch."""
        with atomic_write(self._path(start)) as file:
            np.savez(
                file,
                is_correct=part.is_correct,
                images=part.images,
                seconds=np.asarray(part.seconds),
                flags=np.asarray(part.flags, dtype=np.str_),
            )
