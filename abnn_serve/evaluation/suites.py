"""Attacks by name, the usual ones of each threat model, and the curves over eps and steps."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from abnn_serve.card import Accuracy, Curve, ThreatModel
from abnn_serve.errors import ConfigError
from abnn_serve.evaluation.outcomes import Trial
from abnn_serve.evaluation.threats import Subject
from abnn_serve.evaluation.trials import run_trials
from abnn_serve.evaluation.workers import Workers
from abnn_serve.lab.abnn.mixture import MixtureNetwork
from abnn_serve.lab.attacks.autoattack import AutoAttack
from abnn_serve.lab.attacks.base import Attack
from abnn_serve.lab.attacks.ensemble import worst_case
from abnn_serve.lab.attacks.half import OnHalf
from abnn_serve.lab.attacks.pgd import FGSM, PGD
from abnn_serve.lab.attacks.rays import RayS
from abnn_serve.lab.attacks.roa import ROA, Patch
from abnn_serve.lab.attacks.square import Square
from abnn_serve.lab.data.dataset import ImageData

ATTACKS: dict[str, Callable[[float], Attack]] = {
    "fgsm": lambda eps: FGSM(eps=eps),
    "pgd": lambda eps: PGD(eps=eps, step_size=eps / 4),
    "pgd-margin": lambda eps: PGD(eps=eps, step_size=eps / 4, loss="margin"),
    "pgd-l2": lambda eps: PGD(eps=eps * 16, norm="L2"),  # L2 0.5 is the usual counterpart of Linf 8/255
    "worst": worst_case,
    "square": lambda eps: Square(eps=eps, queries=1000),
    "rays": lambda eps: RayS(eps=eps, queries=1000),
    "roa": lambda _: ROA(),
    "roa-moving": lambda _: ROA(moving=True),
    "autoattack": lambda eps: AutoAttack(eps=eps),
}

_USUAL: dict[ThreatModel, tuple[str, ...]] = {
    "whitebox": ("fgsm", "pgd", "worst", "square", "roa"),
    "graybox": ("fgsm", "pgd", "pgd-margin"),
    "transfer": ("fgsm", "pgd", "pgd-margin"),
    "substitute-transfer": ("pgd", "pgd-margin"),
    "blackbox": ("square",),
    "artifact": ("pgd", "pgd-margin"),
}
_QUICK: dict[ThreatModel, tuple[str, ...]] = {
    "whitebox": ("pgd", "pgd-margin"),
    "graybox": ("pgd",),
    "transfer": ("pgd",),
    "substitute-transfer": ("pgd",),
    "blackbox": ("square",),
    "artifact": ("pgd",),
}
_QUERIES_QUICK = 100


def choose_trials(
    subject: Subject,
    *,
    eps: float = 8 / 255,
    seed: int = 0,
    attacks: Sequence[str] = (),
    threats: Sequence[ThreatModel] = (),
    quick: bool = False,
    autoattack: bool = False,
    queries: int | None = None,
) -> list[Trial]:
    """The trials for `subject`: by default the usual attacks of every available threat model.

    Args:
        subject: decides which threat models are available.
        eps: Linf budget, in units of [0, 1] pixels; L2 attacks use 16 times as much, ROA 10% of the area.
        seed: random seed of every trial.
        attacks: names from ATTACKS, to run in every threat model, or `none` alone.
        threats: names of threat models.
        quick: fewer attacks, and fewer queries.
        queries: for each sample, of Square and RayS; 1,000 by default, 100 if `quick` or through an answer rule.
        autoattack: add AutoAttack in the white-box threat model.

    White-box attacks on a mixture include attacks on each half, unless `attacks` names others.

    Raises:
        ConfigError: an unknown attack or threat model, an attack that needs gradients in `blackbox`, or scores where
            the subject tells labels alone.
    """
    if list(attacks) == ["none"]:
        return []
    _check_names(attacks, threats)
    trials = []
    for threat in threats or subject.threat_models:
        requested = [ATTACKS[name](eps) for name in attacks]
        for number, attack in enumerate(requested or _usual(subject, threat, eps, quick=quick)):
            if threat == "blackbox" and attack.needs_gradient:
                if threats or subject.network is None:
                    name = attacks[number] if attacks else attack.name
                    raise ConfigError(f"attack {name!r} needs gradients, which {threat} does not give; choose square")
                continue
            if isinstance(attack, Square) and subject.labels_only:
                raise ConfigError("attack 'square' needs scores, and the endpoint tells labels alone; choose rays")
            fewer = _QUERIES_QUICK if quick or subject.answer else None
            trials.append(Trial(threat_model=threat, attack=_with_queries(attack, queries or fewer), seed=seed))
        if threat == "whitebox" and isinstance(subject.network, MixtureNetwork) and not attacks:
            trials += [Trial(threat_model=threat, attack=attack, seed=seed) for attack in _on_halves(eps)]
    if autoattack:
        trials.append(Trial(threat_model="whitebox", attack=AutoAttack(eps=eps), seed=seed))
    return trials


def _usual(subject: Subject, threat: ThreatModel, eps: float, *, quick: bool) -> list[Attack]:
    """The usual attacks of a threat model; an answer rule adds white-box ones within its bound, and takes fewer others.

    A query or a gradient through a rule costs as many passes as an answer.
    """
    if subject.labels_only:
        return [ATTACKS["rays"](eps)]
    attacks = [ATTACKS[name](eps) for name in (_QUICK if quick else _USUAL)[threat]]
    answer = subject.answer
    if answer is None or threat != "whitebox":
        return attacks
    if answer.noise:
        budgets = (0.25,) if quick else (0.25, 0.5)
        return [*(PGD(eps=budget, norm="L2", random_start=False) for budget in budgets), ATTACKS["pgd"](eps)]
    assert answer.masks is not None  # noqa: S101
    height, width = answer.masks.patch
    patch = Patch(eps=height * width / (subject.size[0] * subject.size[1]), height=height, width=width)
    patches: list[Attack] = [patch, replace(patch, steps=40, step_size=0.05)]
    return patches[1:] if quick else [*patches, *(ATTACKS[name](eps) for name in ("roa", "pgd", "pgd-margin"))]


def _with_queries(attack: Attack, queries: int | None) -> Attack:
    return replace(attack, queries=queries) if queries and isinstance(attack, Square | RayS) else attack


def _check_names(attacks: Sequence[str], threats: Sequence[ThreatModel]) -> None:
    if unknown := [name for name in attacks if name not in ATTACKS]:
        raise ConfigError(f"no attack named {unknown[0]!r}, expected one of {', '.join(ATTACKS)}, or none alone")
    if unknown_threats := [threat for threat in threats if threat not in _USUAL]:
        raise ConfigError(f"no threat model named {unknown_threats[0]!r}, expected one of {', '.join(_USUAL)}")


def _on_halves(eps: float) -> list[Attack]:
    return [OnHalf(eps=eps, attack=ATTACKS["pgd-margin"](eps), half=half) for half in ("robust", "clean")]


def eps_curve(
    subject: Subject,
    data: ImageData,
    *,
    device: str = "cpu",
    steps: int = 20,
    store: Path | None = None,
    workers: Workers[Subject] | None = None,
) -> Curve:
    """White-box accuracy under PGD at ten values of eps from 0 to 1; `store` and `workers` as for `run_trials`."""
    budgets = [0.0, *(level / 255 for level in (1, 2, 4, 8, 12, 16, 32, 64, 255))]
    trials = [Trial(threat_model="whitebox", attack=PGD(eps=eps, steps=steps, loss="margin")) for eps in budgets]
    outcomes = run_trials(subject, data, trials, device=device, store=store, workers=workers).outcomes
    points = tuple((eps, Accuracy.of(outcome.is_correct)) for eps, outcome in zip(budgets, outcomes, strict=True))
    return Curve(parameter="eps", attack=trials[0].attack.name, points=points)


def steps_curve(
    subject: Subject,
    data: ImageData,
    *,
    device: str = "cpu",
    eps: float = 8 / 255,
    store: Path | None = None,
    workers: Workers[Subject] | None = None,
) -> Curve:
    """White-box accuracy under PGD with 1 to 50 steps at budget `eps`; `store` and `workers` as for `run_trials`."""
    numbers = (1, 2, 5, 10, 20, 50)
    trials = [Trial(threat_model="whitebox", attack=PGD(eps=eps, steps=steps, loss="margin")) for steps in numbers]
    outcomes = run_trials(subject, data, trials, device=device, store=store, workers=workers).outcomes
    points = tuple(
        (float(steps), Accuracy.of(outcome.is_correct)) for steps, outcome in zip(numbers, outcomes, strict=True)
    )
    return Curve(parameter="steps", attack=f"PGD-margin at eps {eps:.3g}", points=points)
