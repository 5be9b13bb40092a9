"""Recipes: how a network is trained, as values for the one training loop."""

from __future__ import annotations

from dataclasses import dataclass

from abnn_serve.errors import ConfigError


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """What one training run does.

    Attributes:
        adaptive: the target gets adaptive layers, driven by a frozen substitute.
        epochs: passes over the data, at least 1.
        batch_size: images a step, at least 2.
        lr: peak of the one-cycle schedule of SGD with Nesterov momentum.
        warmup: share of the steps before the peak, in (0, 1).
        weight_decay: on weights of two or more dimensions only.
        label_smoothing: in [0, 1).
        ema_decay: of the averaged weights, which are the ones kept; in [0, 1).
        grad_clip: largest norm of a step's gradient.
        crop_padding: pixels that a random crop may shift by; reflected at the border.
        flip: mirror half of the images.
        passes: cost of one step in network passes, in units of N (the papers' count).
    """

    name: str
    summary: str
    adaptive: bool = False
    epochs: int = 20
    batch_size: int = 256
    lr: float = 0.4
    warmup: float = 0.25
    momentum: float = 0.9
    weight_decay: float = 5e-4
    label_smoothing: float = 0.1
    ema_decay: float = 0.995
    grad_clip: float = 5.0
    crop_padding: int = 3
    flip: bool = True
    passes: int = 2

    def __post_init__(self) -> None:
        bounds = {
            "epochs": (1, 100_000),
            "batch_size": (2, 65_536),
            "lr": (0.0, 100.0),
            "warmup": (0.001, 0.999),
            "momentum": (0.0, 0.9999),
            "weight_decay": (0.0, 1.0),
            "label_smoothing": (0.0, 0.999),
            "ema_decay": (0.0, 0.99999),
            "grad_clip": (1e-6, 1e6),
            "crop_padding": (0, 4096),
        }
        for field, (low, high) in bounds.items():
            value = getattr(self, field)
            if not low <= value <= high:
                raise ConfigError(f"{field} is {value}, expected {low} to {high}")


RECIPES = {
    recipe.name: recipe
    for recipe in (
        Recipe(name="standard", summary="the network alone, on clean data; also pre-trains substitutes"),
        Recipe(
            name="abnn", summary="ABNN: adaptive layers and a frozen substitute, on clean data", adaptive=True, passes=3
        ),
    )
}


def recipe_by_name(name: str) -> Recipe:
    """The recipe called `name`; ConfigError lists those there are."""
    if name not in RECIPES:
        raise ConfigError(f"no recipe named {name!r}, expected one of {', '.join(RECIPES)}")
    return RECIPES[name]
