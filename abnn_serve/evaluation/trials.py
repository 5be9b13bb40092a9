"""Run trials on a subject: each attack's images are projected, judged again, and kept batch by batch to resume from."""

from __future__ import annotations

import hashlib
import time
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from abnn_serve.arrays import batch_slices
from abnn_serve.evaluation.budget import project_to_budget, within_uint8
from abnn_serve.evaluation.outcomes import Evaluation, Outcome, OutcomeStore, Progress, Trial
from abnn_serve.evaluation.served import ServedModel
from abnn_serve.evaluation.threats import Subject
from abnn_serve.evaluation.workers import ThisProcess, Workers
from abnn_serve.lab.attacks.autoattack import AutoAttackWarning
from abnn_serve.lab.attacks.base import Model, evaluating
from abnn_serve.lab.data.dataset import ImageData
from abnn_serve.lab.device import exact_fp32
from abnn_serve.lab.training.batches import to_input

# images, or frames of clips: also what a kill loses, in each process
_BATCH = 50
_BATCH_ON_GPU = 250
_GRADIENT_CHECK_IMAGES = 16


@exact_fp32()
def run_trials(
    subject: Subject,
    data: ImageData,
    trials: Sequence[Trial],
    *,
    device: str = "cpu",
    store: Path | None = None,
    workers: Workers[Subject] | None = None,
    on_progress: Callable[[Progress], None] = lambda _: None,
) -> Evaluation:
    """Run every trial on all of `data`.

    Args:
        subject: the networks, which are moved to `device`.
        data: labelled samples.
        trials: attacks in threat models that `subject` allows.
        device: torch device.
        store: directory that keeps finished batches: after a kill, the same call resumes from them.
        workers: run the batches; by default this process.
        on_progress: called after each batch.

    Raises:
        ConfigError: an unavailable threat model, or a white-box trial on a network that detaches its substitute.
    """
    subject.move(device)
    for trial in trials:
        subject.attacked(trial.threat_model)
    if any(trial.threat_model == "whitebox" for trial in trials):
        subject.check_whitebox(to_input(data.spread(data.chunk(_GRADIENT_CHECK_IMAGES)).images, device))
    size = subject.batch or data.chunk(_batch_size(device))
    clean = _clean_accuracy(subject.clean_judge, data, device)
    identity = f"{identity_of(subject, data)} {size}"
    stores = [OutcomeStore(store, trial, identity) if store else None for trial in trials]
    units = [(number, batch) for number in range(len(trials)) for batch in batch_slices(len(data), size)]
    finished: dict[tuple[int, int], Outcome] = {}

    def keep(number: int, start: int, outcome: Outcome) -> None:
        finished[number, start] = outcome
        parts = [part for (of, _), part in finished.items() if of == number]
        on_progress(
            Progress(
                trial=trials[number],
                number=number + 1,
                trials=len(trials),
                done=sum(len(part.is_correct) for part in parts),
                samples=len(data),
                finished=sum(len(part.is_correct) for part in finished.values()),
                accuracy=float(np.concatenate([part.is_correct for part in parts]).mean()),
            )
        )

    missing = []
    for number, batch in units:
        kept = stores[number]
        outcome = kept.load(batch.start) if kept else None
        if outcome is None:
            missing.append((number, batch))
        else:
            keep(number, batch.start, outcome)
    parts = [partial(_attack, trials[number], data.part(batch), device, batch.start) for number, batch in missing]
    for position, outcome in (workers or ThisProcess(subject)).run(parts):
        number, batch = missing[position]
        if kept := stores[number]:
            kept.save(batch.start, outcome)
        keep(number, batch.start, outcome)
    outcomes = [
        Outcome.join([finished[number, batch.start] for batch in batch_slices(len(data), size)])
        for number in range(len(trials))
    ]
    return Evaluation(data=data, clean=clean, outcomes=tuple(outcomes))


def _batch_size(device: str) -> int:
    return _BATCH_ON_GPU if device.startswith("cuda") else _BATCH


def _clean_accuracy(model: Model, data: ImageData, device: str) -> NDArray[np.bool_]:
    with torch.no_grad():
        classes = [
            model(to_input(data.images[batch], device)).argmax(dim=1).cpu().numpy()
            for batch in batch_slices(len(data), data.chunk(_batch_size(device)))
        ]
    is_correct: NDArray[np.bool_] = np.concatenate(classes) == data.labels
    return is_correct


def _attack(trial: Trial, data: ImageData, device: str, offset: int, subject: Subject) -> Outcome:
    """The outcome of a trial on a batch that begins at sample `offset`."""
    if subject.draws > 1:  # a random network draws the same in any process
        torch.manual_seed(trial.seed * 1_000_003 + offset)
    started = time.perf_counter()
    subject.move(device)
    attacked, judge = subject.attacked(trial.threat_model), subject.judge(trial.threat_model)
    x, y = to_input(data.images, device), torch.from_numpy(data.labels).to(device)
    with torch.no_grad():
        is_correct = judge(x).argmax(dim=1) == y
    adversarial = x.clone()
    flags: list[str] = []
    if is_correct.any():
        seed = trial.seed * 1_000_003 + offset
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            x_adv = within_uint8(trial.attack, attacked)(
                attacked,
                x[is_correct],
                y[is_correct],
                seed=seed,
                early_stop=subject.is_final(trial.threat_model),
            )
        flags = [str(warning.message) for warning in caught if warning.category is AutoAttackWarning]
        for warning in caught:
            if warning.category is not AutoAttackWarning:
                warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)
        as_uint8 = isinstance(judge, ServedModel)
        adversarial[is_correct] = project_to_budget(trial.attack, x[is_correct], x_adv, as_uint8=as_uint8)
        with torch.no_grad(), evaluating(judge):
            is_correct[is_correct.clone()] = judge(adversarial[is_correct]).argmax(dim=1) == y[is_correct]
    return Outcome(
        trial=trial,
        is_correct=is_correct.cpu().numpy(),
        images=adversarial.cpu().numpy(),
        seconds=time.perf_counter() - started,
        flags=tuple(flags),
    )


def identity_of(subject: Subject, data: ImageData) -> str:
    """A digest of everything but the trial that decides a batch's outcome."""
    state = hashlib.sha256(
        f"{subject.served_digest} {data.digest} {subject.answer} {subject.straight_through} {subject.draws}".encode()
    )
    for network in (subject.network, subject.twin, subject.probe):
        for name, value in sorted(network.state_dict().items()) if network is not None else ():
            state.update(name.encode())
            state.update(value.detach().cpu().contiguous().numpy().tobytes())
    return state.hexdigest()
