"""How long the attacks of an evaluation will take, from the speed of a few passes."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from abnn_serve.card import ThreatModel
from abnn_serve.evaluation.outcomes import Trial
from abnn_serve.evaluation.threats import Subject
from abnn_serve.lab.attacks.base import Model, Passes, cross_entropy, evaluating, is_correct
from abnn_serve.lab.attacks.pgd import PGD
from abnn_serve.lab.data.dataset import ImageData
from abnn_serve.lab.device import exact_fp32
from abnn_serve.lab.training.batches import to_input

_IMAGES = 16  # or frames
_PILOT_STEPS = 20
_TIMED = 1 / 3  # seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class Speed:
    """Seconds that one pass of one sample takes; `gradient` is 0 where no attack differentiates the model."""

    gradient: float
    query: float

    def seconds(self, passes: Passes) -> float:
        """Seconds of an attack with so many passes of one sample."""
        return passes.gradients * self.gradient + passes.queries * self.query


@dataclass(frozen=True, slots=True, kw_only=True)
class Shares:
    """Shares of the samples, in [0, 1]: `attacked`, as they are correct unattacked, and `survive` of all."""

    attacked: float
    survive: float


def estimate_seconds(
    trials: Sequence[Trial],
    images: int,
    speeds: dict[ThreatModel, Speed],
    shares: Shares,
    *,
    stops: Callable[[ThreatModel], bool],
    jobs: int = 1,
) -> float:
    """Seconds that `trials` take.

    Args:
        trials: what is run.
        images: samples in all.
        speeds: of each threat model's attacked model, in one process.
        shares: how many of the samples are attacked and survive.
        stops: whether attacks in a threat model stop at their success.
        jobs: processes.
    """
    seconds = 0.0
    for trial in trials:
        speed, attack = speeds[trial.threat_model], trial.attack
        broken = attack.passes_if_broken(early_stop=stops(trial.threat_model))
        seconds += shares.survive * speed.seconds(attack.passes)
        seconds += (shares.attacked - shares.survive) * speed.seconds(broken)
    return seconds * images / jobs


@exact_fp32()
def measure_seconds(
    subject: Subject, data: ImageData, trials: Sequence[Trial], *, device: str = "cpu", jobs: int = 1
) -> float:
    """Estimate the seconds of `trials` on `data`, by timing passes of a few samples and attacking those by PGD."""
    subject.move(device)
    few = data.spread(data.chunk(_IMAGES))
    x, y = to_input(few.images, device), torch.from_numpy(few.labels).to(device)
    clean = survive = float(is_correct(subject.clean_judge, x, y).float().mean())
    budgets = [trial.attack.eps for trial in trials if trial.threat_model == "whitebox" and trial.attack.norm == "Linf"]
    if budgets:
        attack = PGD(eps=budgets[0], steps=_PILOT_STEPS)
        model = subject.attacked("whitebox")
        survive = min(clean, float(is_correct(model, attack(model, x, y), y).float().mean()))
    speeds = {}
    for threat in {trial.threat_model for trial in trials}:
        differentiated = any(trial.attack.passes.gradients for trial in trials if trial.threat_model == threat)
        speeds[threat] = _speed(subject.attacked(threat), x, y, differentiated=differentiated)
    shares = Shares(attacked=clean, survive=survive)
    return estimate_seconds(trials, len(data), speeds, shares, stops=subject.is_final, jobs=jobs)


def _speed(model: Model, x: Tensor, y: Tensor, *, differentiated: bool) -> Speed:
    with evaluating(model):
        query = _seconds(lambda: model(x)) / len(x)
        if not differentiated:
            return Speed(gradient=0.0, query=query)
        samples = torch.arange(len(x), device=x.device)

        def gradient() -> Tensor:
            x_adv = x.clone().requires_grad_()
            return torch.autograd.grad(cross_entropy(y)(model(x_adv), samples).sum(), x_adv)[0]

        return Speed(gradient=_seconds(gradient) / len(x), query=query)


def _seconds(run: Callable[[], Tensor]) -> float:
    """The mean over a third of a second, which evens out what else the machine does, after a first run."""
    float(run().sum())  # waits for the device
    started, runs = time.perf_counter(), 0
    while not runs or time.perf_counter() - started < _TIMED:
        float(run().sum())
        runs += 1
    return (time.perf_counter() - started) / runs
