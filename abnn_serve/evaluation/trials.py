"""Robust accuracy: attacks in threat models, each judged again, worst case per sample; resumable batch by batch."""

from __future__ import annotations

import hashlib
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from abnn_serve.arrays import batch_slices
from abnn_serve.evaluation.outcomes import Evaluation, Outcome, OutcomeStore, Trial
from abnn_serve.evaluation.threats import ServedModel, Subject
from abnn_serve.lab.attacks.autoattack import AutoAttackWarning
from abnn_serve.lab.attacks.base import Attack, Model, evaluating
from abnn_serve.lab.attacks.regions import Linf, ball
from abnn_serve.lab.data.dataset import ImageData
from abnn_serve.lab.training.batches import to_input

_BATCH = 250  # images; clips by their frames
_CHECKED = 16  # images on which the white-box gradient is compared with finite differences


def run_trials(
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
        subject.check_whitebox(to_input(data.spread(data.chunk(_CHECKED)).images, device))
    clean = _right(subject.own, data, device)
    identity = _identity(subject, data)
    outcomes = tuple(
        _run(trial, subject, data, device, OutcomeStore(store, trial, identity) if store else None, on_progress)
        for trial in trials
    )
    return Evaluation(data=data, clean=clean, outcomes=outcomes)


def _right(model: Model, data: ImageData, device: str) -> NDArray[np.bool_]:
    size = data.chunk(_BATCH)
    with torch.no_grad():
        found = [
            model(to_input(data.images[part], device)).argmax(dim=1).cpu().numpy()
            for part in batch_slices(len(data), size)
        ]
    is_correct: NDArray[np.bool_] = np.concatenate(found) == data.labels
    return is_correct


def _run(
    trial: Trial,
    subject: Subject,
    data: ImageData,
    device: str,
    store: OutcomeStore | None,
    on_progress: Callable[[Trial, int, float], None],
) -> Outcome:
    parts: list[Outcome] = []
    size = data.chunk(_BATCH)
    for batch in batch_slices(len(data), size):
        part = store.load(batch.start) if store else None
        if part is None:
            part = _attack(trial, subject, data.part(batch), device, batch.start)
            if store:
                store.save(batch.start, part)
        parts.append(part)
        done = np.concatenate([part.is_correct for part in parts])
        on_progress(trial, len(done), float(done.mean()))
    return Outcome(
        trial=trial,
        is_correct=np.concatenate([part.is_correct for part in parts]),
        images=np.concatenate([part.images for part in parts]),
        seconds=sum(part.seconds for part in parts),
        flags=tuple(sorted({flag for part in parts for flag in part.flags})),
    )


def _attack(trial: Trial, subject: Subject, data: ImageData, device: str, offset: int) -> Outcome:
    started = time.perf_counter()
    attacked, judge = subject.attacked(trial.threat_model), subject.judge(trial.threat_model)
    x, y = to_input(data.images, device), torch.from_numpy(data.labels).to(device)
    with torch.no_grad():
        is_correct = judge(x).argmax(dim=1) == y
    adversarial = x.clone()
    flags: list[str] = []
    if is_correct.any():
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            x_adv = _servable(trial.attack, attacked)(
                attacked,
                x[is_correct],
                y[is_correct],
                seed=trial.seed * 1_000_003 + offset,
                early_stop=subject.is_final(trial.threat_model),
            )
        flags = [str(warning.message) for warning in caught if warning.category is AutoAttackWarning]
        for warning in caught:
            if warning.category is not AutoAttackWarning:
                warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)
        adversarial[is_correct] = inside(trial.attack, x[is_correct], x_adv, whole=isinstance(judge, ServedModel))
        with torch.no_grad(), evaluating(judge):
            is_correct[is_correct.clone()] = judge(adversarial[is_correct]).argmax(dim=1) == y[is_correct]
    return Outcome(
        trial=trial,
        is_correct=is_correct.cpu().numpy(),
        images=adversarial.cpu().numpy(),
        seconds=time.perf_counter() - started,
        flags=tuple(flags),
    )


def _servable(attack: Attack, attacked: Model) -> Attack:
    """`attack` with a budget of whole uint8 steps where it is run on what is served, so that rounding keeps inside."""
    if isinstance(attacked, ServedModel) and attack.norm == "Linf":
        return replace(attack, eps=_whole_steps(attack.eps))
    return attack


def _whole_steps(eps: float) -> float:
    return int(eps * 255 + 1e-6) / 255


def inside(attack: Attack, x: torch.Tensor, x_adv: torch.Tensor, *, whole: bool) -> torch.Tensor:
    """`moved` put back into the attack's budget around x, whatever the attack did; `whole` also rounds it to uint8."""
    if attack.norm == "patch":
        x_adv = (x_adv.clamp(0, 1) * 255).round() / 255 if whole else x_adv.clamp(0, 1)
        area = (x_adv != x).any(dim=1).float().mean(dim=(-2, -1)).view(len(x), -1).amax(dim=1)  # of the worst frame
        return torch.where((area <= attack.eps + 1e-6).view(-1, *[1] * (x.dim() - 1)), x_adv, x)
    x_adv = ball(attack.norm, attack.eps).project(x, x_adv)
    if not whole:
        return x_adv
    steps = ((x_adv - x) * 255).round()
    if attack.norm == "Linf":
        return Linf(_whole_steps(attack.eps)).project(x, x + steps / 255)
    return x + ((x_adv - x) * 255).trunc() / 255


def _identity(subject: Subject, data: ImageData) -> str:
    state = hashlib.sha256(f"{subject.served_digest} {data.digest} {_BATCH}".encode())
    for network in (subject.network, subject.twin, subject.probe):
        for name, value in sorted(network.state_dict().items()) if network is not None else ():
            state.update(name.encode())
            state.update(value.detach().cpu().contiguous().numpy().tobytes())
    return state.hexdigest()
