"""Measure a subject (trials, curves, sanity checks), fill its card with the report, and draw the plots."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from abnn_serve.card import Accuracy, Curve, RobustnessCard, SanityCheck
from abnn_serve.evaluation.certificate_check import check_certificates
from abnn_serve.evaluation.network_checks import check_network
from abnn_serve.evaluation.outcomes import Evaluation, Progress, Trial
from abnn_serve.evaluation.plots import draw_robustness, draw_samples
from abnn_serve.evaluation.reports.words import budget
from abnn_serve.evaluation.sanity import check_evaluation
from abnn_serve.evaluation.suites import eps_curve, steps_curve
from abnn_serve.evaluation.threats import Subject
from abnn_serve.evaluation.trials import run_trials
from abnn_serve.evaluation.workers import Workers
from abnn_serve.lab.data.dataset import ImageData
from abnn_serve.lab.device import exact_fp32
from abnn_serve.lab.training.batches import to_input

_ONLY_THESE = (
    "Robust accuracies hold for the listed attacks, norms and budgets only. {}otations, larger budgets and future "
    "attacks were not measured."
)
_MASKED = (
    "Graybox and transfer figures assume an attacker without the substitute's gradient or without the weights. "
    "Substitutes are public and weights leak: rely on the white-box figure."
)
_NO_GRADIENTS = "No attack had the gradients of this network: an attacker with its weights does more harm."
_SANITY_IMAGES = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """The results of an evaluation before they are on a card."""

    evaluation: Evaluation
    curves: tuple[Curve, ...]
    sanity: tuple[SanityCheck, ...]


@exact_fp32()
def measure(
    subject: Subject,
    data: ImageData,
    trials: Sequence[Trial],
    *,
    eps: float = 8 / 255,
    curve_images: int = 200,
    device: str = "cpu",
    store: Path | None = None,
    workers: Workers[Subject] | None = None,
    on_progress: Callable[[Progress], None] = lambda _: None,
) -> Report:
    """Run the trials, the curves and the sanity checks.

    Args:
        subject: the networks to attack.
        data: labelled samples; the trials attack all of them.
        trials: see `suites.choose_trials`.
        eps: Linf budget of the steps curve and of the sanity checks, in units of [0, 1] pixels.
        curve_images: samples for the curves, evenly spaced; 0 omits the curves.
        device: torch device.
        store: directory that keeps finished batches of trials and curves: after a kill, the same call resumes from
            them.
        workers: run the batches; by default this process.
        on_progress: called after each batch of the trials.
    """
    evaluation = run_trials(subject, data, trials, device=device, store=store, workers=workers, on_progress=on_progress)
    if not trials:
        return Report(evaluation=evaluation, curves=(), sanity=())
    subset = data.spread(curve_images)
    curves: tuple[Curve, ...] = ()
    if curve_images and subject.network is not None and subject.answer is None:  # a rule has a certified curve
        curves = (
            eps_curve(subject, subset, device=device, store=store, workers=workers),
            steps_curve(subject, subset, eps=eps, device=device, store=store, workers=workers),
        )
    single_pass = subject.network if subject.network is not None else subject.model
    sanity = check_network(
        single_pass,
        data.spread(data.chunk(_SANITY_IMAGES)),
        eps=eps,
        differentiated=subject.differentiated,
        draws=subject.draws,
    )
    certified = check_certificates(subject, evaluation) if subject.network is not None else ()
    return Report(
        evaluation=evaluation, curves=curves, sanity=(*sanity, *check_evaluation(evaluation, *curves), *certified)
    )


def fill_card(card: RobustnessCard, report: Report, data: ImageData) -> RobustnessCard:
    """`card` with the figures of `report`, on a part of `data`; without trials, with its clean accuracy alone."""
    evaluation = report.evaluation
    card = replace(card, clean=card.clean or Accuracy.of(evaluation.clean))
    if not evaluation.outcomes:
        limits = tuple(limit.replace("Corruptions, rotations", "Rotations") for limit in card.limits)
        return replace(card, limits=limits) if card.corruptions else card
    n = len(evaluation.data)
    masked = not evaluation.worst.keys().isdisjoint(("graybox", "transfer", "substitute-transfer"))
    has_gradients = not evaluation.worst.keys().isdisjoint(("whitebox", "artifact"))
    return replace(
        card,
        attacks=tuple(outcome.row for outcome in evaluation.outcomes),
        worst=evaluation.worst,
        curves=report.curves,
        sanity=report.sanity,
        limits=(
            f"Attacks were run on {n:,} of {len(data):,} images, evenly spaced."
            if data.frames == 1
            else f"Attacks were run on {n:,} of {len(data):,} clips: at most one per video, its middle clip.",
            _ONLY_THESE.format("R" if card.corruptions else "Corruptions, r"),
            *((_MASKED,) if masked else ()),
            *(() if has_gradients else (_NO_GRADIENTS,)),
        ),
    )


def draw_report(subject: Subject, report: Report, folder: Path) -> None:
    """Write samples.png, if there are trials, and curves.png, if there are curves, into `folder`."""
    if report.curves:
        draw_robustness(report.curves, folder / "curves.png")
    evaluation = report.evaluation
    if not evaluation.outcomes:
        return
    white = [outcome for outcome in evaluation.outcomes if outcome.trial.threat_model == "whitebox"]
    outcome = min(white or evaluation.outcomes, key=lambda o: (o.trial.attack.norm == "patch", o.is_correct.mean()))
    data, names, attack = evaluation.data, evaluation.data.classes.names, outcome.trial.attack
    broken = np.flatnonzero(evaluation.clean & ~outcome.is_correct)
    samples = (broken if len(broken) else np.arange(len(data)))[:8]
    judge = subject.judge(outcome.trial.threat_model)
    parameter = next(judge.parameters(), None) if isinstance(judge, torch.nn.Module) else None
    x_adv = torch.from_numpy(outcome.images[samples]).to(None if parameter is None else parameter.device)
    with torch.no_grad():
        classes = judge(x_adv).argmax(dim=1).tolist()
    draw_samples(
        _middle(to_input(data.images[samples]).numpy()),
        _middle(outcome.images[samples]),
        [(names[data.labels[i]], names[after]) for i, after in zip(samples, classes, strict=True)],
        f"{outcome.trial.threat_model}: {attack.name}, {budget(attack.norm, attack.eps)}",
        folder / "samples.png",
    )


def _middle(samples: NDArray[np.float32]) -> NDArray[np.float32]:
    """Images unchanged; of clips, (n, 3, T, H, W), the middle frame."""
    return samples if samples.ndim == 4 else samples[:, :, samples.shape[2] // 2]
