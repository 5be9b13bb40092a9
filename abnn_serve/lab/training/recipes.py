"""The named recipes: settings for the one training loop, as values."""

from __future__ import annotations

from typing import Any

from abnn_serve.errors import ConfigError
from abnn_serve.lab.training.recipe import Recipe

_FROM_SCRATCH: dict[str, Any] = {"batch_size": 128, "lr": 0.2, "label_smoothing": 0.0, "ema_half_life": 0.045}

RECIPES = {
    recipe.name: recipe
    for recipe in (
        Recipe(name="standard", summary="a plain network on clean data; also pre-trains substitutes"),
        Recipe(name="abnn", summary="ABNN: adaptive layers and a frozen substitute, on clean data", adaptive=True),
        Recipe(name="pgd-at", summary="adversarial training with PGD (Madry et al. 2018)", attack_steps=5),
        Recipe(
            name="oudefend",
            summary="adversarial training of a network with a feature-restoration block (Lo et al. 2021)",
            restored=True,
            attack_steps=5,
        ),
        Recipe(name="fast-at", summary="adversarial training with one step (Wong et al. 2020)", attack_steps=1),
        Recipe(
            name="n-fgsm",
            summary="adversarial training with one step from strong noise, not projected (de Jorge et al. 2022)",
            attack_steps=1,
            attack_noise=2.0,
            attack_projected=False,
            **_FROM_SCRATCH,
        ),
        Recipe(
            name="nuat",
            summary="one attack step and a nuclear-norm term (Sriramanan et al. 2021), for long training",
            loss_on="clean",
            nuclear_weight=4.0,
            attack_steps=1,
            attack_step_size=8 / 255,
            attack_noise=0.5,
            attack_start="sign",
            **_FROM_SCRATCH,
        ),
        Recipe(
            name="trades",
            summary="cross-entropy on clean images and divergence under attack (Zhang et al. 2019)",
            loss_on="clean",
            kl_weight=6.0,
            attack_steps=10,
            attack_loss="kl",
            attack_noise=0.03,
            **_FROM_SCRATCH,
        ),
        Recipe(
            name="bn-at",
            summary="adversarial fine-tuning of a trained network's BatchNorm layers only (Walter et al. 2022)",
            fine_tunes=True,
            trained="norm",
            epochs=4,
            lr=0.5,
            attack_steps=5,
        ),
        Recipe(
            name="bn-at-scratch",
            summary="bn-at from random weights, which stay frozen",
            trained="norm",
            epochs=4,
            lr=0.5,
            attack_steps=5,
        ),
        Recipe(
            name="probe",
            summary="a new head on a trained, frozen network, on clean data",
            fine_tunes=True,
            trained="head",
            epochs=4,
            lr=0.1,
        ),
        Recipe(
            name="abnn-at",
            summary="adversarial fine-tuning of an ABNN's adaptive layers and head, through both networks",
            adaptive=True,
            fine_tunes=True,
            trained="norm+head",
            epochs=4,
            lr=0.02,
            attack_steps=3,
            eps_ramp=0.5,
        ),
    )
}


def recipe_by_name(name: str) -> Recipe:
    """The recipe called `name`; ConfigError lists the known names."""
    if name not in RECIPES:
        raise ConfigError(f"no recipe named {name!r}, expected one of {', '.join(RECIPES)}")
    return RECIPES[name]
