"""A robustness card: trials, curves and sanity checks on one subject, and what a reader must know of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from abnn_serve.card import Accuracy, Curve, RobustnessCard, SanityCheck
from abnn_serve.evaluation.outcomes import Evaluation, Trial
from abnn_serve.evaluation.plots import draw_robustness, draw_samples
from abnn_serve.evaluation.sanity import check_evaluation, check_network
from abnn_serve.evaluation.suites import eps_curve, steps_curve
from abnn_serve.evaluation.threats import Subject
from abnn_serve.evaluation.trials import run_trials
from abnn_serve.lab.data.dataset import ImageData
from abnn_serve.lab.training.batches import to_input

_ONLY_THESE = (
    "Robust figures hold for the listed attacks, norms and budgets. Corruptions, rotations, larger budgets and attacks "
    "that are yet to be invented were not measured."
)
_MASKED = (
    "Graybox and transfer figures describe attackers who lack the substitute's gradient or the weights. It is public "
    "and weights leak: the white-box figure is the one to rely on."
)
_SANITY_IMAGES = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What an evaluation found."""

    evaluation: Evaluation
    curves: tuple[Curve, ...]
    sanity: tuple[SanityCheck, ...]


def measure(
    subject: Subject,
    data: ImageData,
    trials: Sequence[Trial],
    *,
    eps: float = 8 / 255,
    curve_images: int = 200,
    device: str = "cpu",
    store: Path | None = None,
    on_progress: Callable[[Trial, int, float], None] = lambda *_: None,
) -> Report:
    """Run the trials, the curves and the sanity checks.

    Args:
        subject: what is attacked.
        data: labelled samples.
        trials: see `suites.choose_trials`.
        eps: budget of the steps curve.
        curve_images: samples of the curves, evenly spaced; 0 leaves the curves out.
        device: of torch.
        store: where finished batches are kept, to go on from after a kill.
        on_progress: told of a trial, its samples so far and the accuracy on them.
    """
    evaluation = run_trials(subject, data, trials, device=device, store=store, on_progress=on_progress)
    subset = data.spread(curve_images)
    curves: tuple[Curve, ...] = ()
    if curve_images and subject.network is not None:
        curves = eps_curve(subject, subset, device=device), steps_curve(subject, subset, eps=eps, device=device)
    own = check_network(subject.own, data.spread(data.chunk(_SANITY_IMAGES)), eps=eps)
    return Report(evaluation=evaluation, curves=curves, sanity=(*own, *check_evaluation(evaluation, *curves)))


def filled(card: RobustnessCard, report: Report, data: ImageData) -> RobustnessCard:
    """`card` with what was found on a part of `data`."""
    evaluation = report.evaluation
    n = len(evaluation.data)
    masked = any(threat != "whitebox" for threat in evaluation.worst)
    return replace(
        card,
        clean=card.clean or Accuracy.of(evaluation.clean),
        attacks=tuple(outcome.row for outcome in evaluation.outcomes),
        worst=evaluation.worst,
        curves=report.curves,
        sanity=report.sanity,
        limits=(
            f"Attacks were run on {n:,} of {len(data):,} images, evenly spaced."
            if data.frames == 1
            else f"Attacks were run on {n:,} of {len(data):,} clips, at most one of each video, the middle one.",
            _ONLY_THESE,
            *((_MASKED,) if masked else ()),
        ),
    )


def draw(subject: Subject, report: Report, folder: Path) -> None:
    """Write curves.png and samples.png into `folder`."""
    if report.curves:
        draw_robustness(report.curves, folder / "curves.png")
    white = [o for o in report.evaluation.outcomes if o.trial.threat_model == "whitebox"] or report.evaluation.outcomes
    outcome = min(white, key=lambda o: (o.trial.attack.norm == "patch", o.is_correct.mean()))
    data, names = report.evaluation.data, report.evaluation.data.classes.names
    broken = np.flatnonzero(report.evaluation.clean & ~outcome.is_correct)
    shown = (broken if len(broken) else np.arange(len(data)))[:8]
    clean = _middle(to_input(data.images[shown]).numpy())
    judge = subject.judge(outcome.trial.threat_model)
    place = next((p.device for p in judge.parameters()), None) if isinstance(judge, torch.nn.Module) else None
    with torch.no_grad():
        after = judge(torch.from_numpy(outcome.images[shown]).to(place)).argmax(dim=1).tolist()
    draw_samples(
        clean,
        _middle(outcome.images[shown]),
        [(names[data.labels[i]], names[found]) for i, found in zip(shown, after, strict=True)],
        f"{outcome.trial.threat_model}: {outcome.trial.attack.name}, eps {outcome.trial.attack.eps:.3g}",
        folder / "samples.png",
    )


def _middle(samples: NDArray[np.float32]) -> NDArray[np.float32]:
    """Images as they are, of clips the middle frame."""
    return samples if samples.ndim == 4 else samples[:, :, samples.shape[2] // 2]
