"""Robust accuracy: attacks in threat models, each judged again, worst case per sample; resumable batch by batch."""

from __future__ import annotations

import hashlib
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from abnn_serve.card import Accuracy, AttackResult, ThreatModel
from abnn_serve.lab.attacks.autoattack import AutoAttackWarning
from abnn_serve.lab.attacks.base import Attack, Model, evaluating
from abnn_serve.lab.attacks.regions import Linf, ball
from abnn_serve.lab.batches import to_input
from abnn_serve.lab.data import ImageData
from abnn_serve.lab.threats import ServedModel, Subject

_BATCH = 250
_CHECKED = 16  # images on which the white-box gradient is compared with finite differences


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """One attack in one threat model."""

    threat_model: ThreatModel
    attack: Attack
    seed: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What a trial did: which samples stayed right, bool (N,), and the adversarial images, float32 (N, 3, H, W)."""

    trial: Trial
    right: NDArray[np.bool_]
    images: NDArray[np.float32]
    seconds: float
    flags: tuple[str, ...] = ()

    @property
    def row(self) -> AttackResult:
        """The card's line."""
        attack = self.trial.attack
        return AttackResult(
            threat_model=self.trial.threat_model,
            attack=attack.name,
            norm=attack.budget,
            eps=attack.eps,
            parameters=attack.parameters,
            seed=self.trial.seed,
            accuracy=count(self.right),
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
        right: dict[ThreatModel, NDArray[np.bool_]] = {}
        for outcome in self.outcomes:
            if outcome.trial.attack.budget != "patch":
                threat = outcome.trial.threat_model
                right[threat] = right.get(threat, self.clean) & outcome.right
        return {threat: count(flags) for threat, flags in right.items()}


def count(right: NDArray[np.bool_]) -> Accuracy:
    """Flags to an Accuracy."""
    return Accuracy(correct=int(right.sum()), n=len(right))


def evaluate(
    subject: Subject,
    data: ImageData,
    trials: Sequence[Trial],
    *,
    device: str = "cpu",
    store: Path | None = None,
    on_progress: Callable[[Trial, int, float], None] = lambda *_: None,
) -> Evaluation:
    """Run every trial on all of `data`.

    Args:
        subject: what is attacked; moved to `device`.
        data: labelled samples.
        trials: attacks in threat models that `subject` allows.
        device: of torch.
        store: a directory where finished batches are kept: the same call after a kill goes on from there.
        on_progress: told of a trial, its samples so far and the accuracy on them.

    Raises:
        ConfigError: a threat model that cannot be evaluated, or a white-box one whose substitute gives no gradient.
    """
    for network in (subject.network, subject.twin, subject.probe):
        if network is not None:
            network.to(device).eval()
    for trial in trials:
        subject.attacked(trial.threat_model)
    if any(trial.threat_model == "whitebox" for trial in trials):
        subject.check_whitebox(to_input(data.spread(_CHECKED).images, device))
    clean = _right(subject.own, data, device)
    identity = _identity(subject, data)
    outcomes = tuple(
        _run(trial, subject, data, device, _Store(store, trial, identity) if store else None, on_progress)
        for trial in trials
    )
    return Evaluation(data=data, clean=clean, outcomes=outcomes)


def _right(model: Model, data: ImageData, device: str) -> NDArray[np.bool_]:
    with torch.no_grad():
        found = [
            model(to_input(data.images[start : start + _BATCH], device)).argmax(dim=1).cpu().numpy()
            for start in range(0, len(data), _BATCH)
        ]
    right: NDArray[np.bool_] = np.concatenate(found) == data.labels
    return right


def _run(
    trial: Trial,
    subject: Subject,
    data: ImageData,
    device: str,
    store: _Store | None,
    on_progress: Callable[[Trial, int, float], None],
) -> Outcome:
    parts: list[Outcome] = []
    for start in range(0, len(data), _BATCH):
        part = store.load(start) if store else None
        if part is None:
            part = _attack(trial, subject, data.part(start, start + _BATCH), device, start)
            if store:
                store.save(start, part)
        parts.append(part)
        done = np.concatenate([part.right for part in parts])
        on_progress(trial, len(done), float(done.mean()))
    return Outcome(
        trial=trial,
        right=np.concatenate([part.right for part in parts]),
        images=np.concatenate([part.images for part in parts]),
        seconds=sum(part.seconds for part in parts),
        flags=tuple(sorted({flag for part in parts for flag in part.flags})),
    )


def _attack(trial: Trial, subject: Subject, data: ImageData, device: str, offset: int) -> Outcome:
    started = time.perf_counter()
    attacked, judge = subject.attacked(trial.threat_model), subject.judge(trial.threat_model)
    x, y = to_input(data.images, device), torch.from_numpy(data.labels).to(device)
    with torch.no_grad():
        right = judge(x).argmax(dim=1) == y
    adversarial = x.clone()
    flags: list[str] = []
    if right.any():
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            moved = trial.attack(
                attacked,
                x[right],
                y[right],
                seed=trial.seed * 1_000_003 + offset,
                stop=subject.is_final(trial.threat_model),
            )
        flags = [str(warning.message) for warning in caught if warning.category is AutoAttackWarning]
        for warning in caught:
            if warning.category is not AutoAttackWarning:
                warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)
        adversarial[right] = inside(trial.attack, x[right], moved, whole=isinstance(judge, ServedModel))
        with torch.no_grad(), evaluating(judge):
            right[right.clone()] = judge(adversarial[right]).argmax(dim=1) == y[right]
    return Outcome(
        trial=trial,
        right=right.cpu().numpy(),
        images=adversarial.cpu().numpy(),
        seconds=time.perf_counter() - started,
        flags=tuple(flags),
    )


def inside(attack: Attack, x: torch.Tensor, moved: torch.Tensor, *, whole: bool) -> torch.Tensor:
    """`moved` put back into the attack's budget around x, whatever the attack did; `whole` also rounds it to uint8."""
    if attack.budget == "patch":
        moved = (moved.clamp(0, 1) * 255).round() / 255 if whole else moved.clamp(0, 1)
        area = (moved != x).any(dim=1).flatten(1).float().mean(dim=1)
        return torch.where((area <= attack.eps + 1e-6)[:, None, None, None], moved, x)
    moved = ball(attack.budget, attack.eps).project(x, moved)
    if not whole:
        return moved
    steps = ((moved - x) * 255).round()
    if attack.budget == "Linf":
        return Linf(int(attack.eps * 255 + 1e-6) / 255).project(x, x + steps / 255)
    return x + ((moved - x) * 255).trunc() / 255


class _Store:
    """Finished batches of one trial on disk, named after everything that decides them."""

    def __init__(self, folder: Path, trial: Trial, identity: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        key = hashlib.sha256(f"{identity} {_BATCH} {trial}".encode()).hexdigest()[:20]
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
                right=kept["right"],
                images=kept["images"],
                seconds=float(kept["seconds"]),
                flags=tuple(map(str, kept["flags"])),
            )

    def save(self, start: int, part: Outcome) -> None:
        """Keep a batch; written aside and renamed."""
        partial = self.stem.with_name(f".{self.stem.name}.partial")
        with partial.open("wb") as file:
            np.savez(
                file,
                right=part.right,
                images=part.images,
                seconds=np.asarray(part.seconds),
                flags=np.asarray(part.flags, dtype=np.str_),
            )
        partial.replace(self._path(start))


def _identity(subject: Subject, data: ImageData) -> str:
    state = hashlib.sha256(f"{subject.served_digest} {data.digest}".encode())
    for network in (subject.network, subject.twin, subject.probe):
        for name, value in sorted(network.state_dict().items()) if network is not None else ():
            state.update(name.encode())
            state.update(value.detach().cpu().contiguous().numpy().tobytes())
    return state.hexdigest()
