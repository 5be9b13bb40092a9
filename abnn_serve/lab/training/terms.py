"""Loss of a training step: cross-entropy, plus the terms that a recipe adds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from abnn_serve.lab.training.features import FeatureTap, dissimilarity
from abnn_serve.lab.training.recipe import Recipe

Logits = Callable[[Tensor], Tensor]  # images, float (N, 3, [T,] H, W), to logits (N, classes)
_ENTROPY_WEIGHT = 0.5  # the authors' eta
_NUCLEAR_BATCH = 64  # batch size of NuAT's published weights


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One training step: clean images and adversarial ones, float (N, 3, [T,] H, W), and labels, int64 (N,).

    Attributes:
        x, x_adv: as the network sees them: with the recipe's masks and noise.
        whole: clean images without masks or noise, for the averaged network and the teacher; None means `x`.
        x_again: `x_adv` with other noise, for consistency.
        progress: elapsed share of the training, in [0, 1].
    """

    x: Tensor
    x_adv: Tensor
    y: Tensor
    progress: float
    whole: Tensor | None = None
    x_again: Tensor | None = None


@dataclass(frozen=True, slots=True)
class Teacher:
    """A frozen network to learn from.

    Attributes:
        logits: its float32 logits, in eval mode and without gradients.
        taps: of the network and of the teacher, if the recipe compares features.
    """

    logits: Logits
    taps: tuple[FeatureTap, FeatureTap] | None = None


def step_loss(
    recipe: Recipe, network: Logits, step: Step, average: Logits, teacher: Teacher | None = None
) -> tuple[Tensor, Tensor]:
    """Loss of one step, and float32 logits of the adversarial images.

    Args:
        recipe: sets the terms and their weights.
        network: returns float32 logits with gradients, in training mode.
        step: images and labels.
        average: the averaged network, in eval mode and without gradients, for self-distillation.
        teacher: a frozen network to learn from.
    """
    adversarial = network(step.x_adv)
    features = None if teacher is None or teacher.taps is None else teacher.taps[0].features
    clean = network(step.x) if recipe.pairs_images else None
    labels, whole = step.y, step.x if step.whole is None else step.whole
    if recipe.self_distillation:
        labels = _softened(labels, average(whole), recipe.self_distillation * step.progress)
    learned = clean if clean is not None and recipe.loss_on == "clean" else adversarial
    loss = nn.functional.cross_entropy(learned, labels, label_smoothing=recipe.label_smoothing)
    if step.x_again is not None:
        again = network(step.x_again)
        other = nn.functional.cross_entropy(again, labels, label_smoothing=recipe.label_smoothing)
        loss = (loss + other) / 2 + consistency(recipe.consistency, adversarial, again)
    if clean is not None and recipe.kl_weight:
        loss = loss + recipe.kl_weight * kl(clean, adversarial).mean()
    if clean is not None and recipe.nuclear_weight:
        loss = loss + nuclear_weight(recipe, step.progress) * nuclear(clean, adversarial) / len(clean)
    if teacher is not None:
        taught = teacher.logits(whole)
        if recipe.teacher_weight:
            loss = loss + recipe.teacher_weight * kl(taught, adversarial).mean()
        if features is not None and teacher.taps is not None and teacher.taps[1].features is not None:
            loss = loss + recipe.feature_weight * dissimilarity(features, teacher.taps[1].features)
    return loss, adversarial


def consistency(weight: float, one: Tensor, other: Tensor) -> Tensor:
    """Penalty on predictions that differ between two draws of noise (Jeong & Shin, NeurIPS 2020).

    `weight` times the mean divergence from the average prediction to each, plus half of the average's entropy. Logits
    (N, classes) to a scalar.
    """
    logs = torch.stack([one, other]).float().log_softmax(dim=2)
    mean = logs.exp().mean(dim=0)
    entropy = -(mean * mean.clamp_min(1e-20).log()).sum(dim=1)
    divergence = -(mean * logs).sum(dim=2).mean(dim=0) - entropy
    return (weight * divergence + _ENTROPY_WEIGHT * entropy).mean()


def kl(clean: Tensor, adversarial: Tensor) -> Tensor:
    """KL divergence from the first predictions to the second: of clean and adversarial images in TRADES.

    Logits (N, classes) to (N,), at least 0.
    """
    log_p, log_q = clean.float().log_softmax(dim=1), adversarial.float().log_softmax(dim=1)
    return (log_p.exp() * (log_p - log_q)).sum(dim=1)


def nuclear(clean: Tensor, adversarial: Tensor) -> Tensor:
    """Nuclear norm of the difference of two batches of logits, (N, classes), as in NuAT (Sriramanan et al. 2021)."""
    norm: Tensor = torch.linalg.matrix_norm((clean - adversarial).float(), ord="nuc")
    return norm


def nuclear_weight(recipe: Recipe, progress: float) -> float:
    """Weight of the nuclear norm divided by the batch size: it grows linearly with `progress`, from `nuclear_start`.

    A nuclear norm grows like the root of the batch size, so the recipe's weight, given at 64 images, grows with it.
    """
    scale: float = (recipe.batch_size / _NUCLEAR_BATCH) ** 0.5
    share = recipe.nuclear_start + (1 - recipe.nuclear_start) * progress
    return recipe.nuclear_weight * share * scale


def _softened(labels: Tensor, teacher: Tensor, share: float) -> Tensor:
    """Labels, (N,), with `share` of each replaced by the teacher's prediction: probabilities (N, classes)."""
    return nn.functional.one_hot(labels, teacher.shape[1]).float().lerp(teacher.float().softmax(dim=1), share)
