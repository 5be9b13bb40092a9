"""Recipes: how a network is trained, as values for the one training loop."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields, replace
from typing import Any, Literal, get_args

from abnn_serve.errors import ConfigError

Trained = Literal["all", "norm", "head", "norm+head"]
Optimizer = Literal["sgd", "muon"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """What one training run does.

    Attributes:
        adaptive: the target gets adaptive layers, driven by a frozen substitute.
        epochs: passes over the data, at least 1.
        batch_size: images a step, at least 2.
        optimizer: `sgd`, with Nesterov momentum; or `muon`, orthogonalised steps for convolutions and SGD for the rest.
        lr: peak of its one-cycle schedule.
        warmup: share of the steps before the peak, in (0, 1).
        weight_decay: on weights of two or more dimensions only.
        label_smoothing: in [0, 1).
        ema_decay: of the averaged weights, which are the ones kept; in [0, 1).
        grad_clip: largest norm of a step's gradient.
        crop_padding: pixels that a random crop may shift by; reflected at the border.
        cutout: side in pixels of a grey square put somewhere on every image (DeVries & Taylor 2017).
        flip: mirror half of the images.
        fine_tunes: starts from the weights of a finished run.
        restored: the target gets an OUDefend block.
        trained: what learns: `all`; `norm`, the BatchNorm or adaptive layers; `head`, the classifier; or `norm+head`.
        attack_steps: PGD steps that craft each training image; 0 trains on clean images.
        attack_eps: their Linf budget, in units of [0, 1] pixels.
        attack_step_size: of one of them; None is 2.5 eps / steps; for a single one 1.25 eps; if not projected, eps.
        eps_ramp: share of the training in which the budget grows from nothing, in [0, 1].
        attack_noise: half-width of the attack's uniform random start, as a multiple of `attack_eps`.
        attack_projected: the attack stays in the ball of `attack_eps`; else only in the pixel range [0, 1].
        photometric: largest relative change of an image's brightness and of its contrast, in [0, 1).
    """

    name: str
    summary: str
    adaptive: bool = False
    epochs: int = 20
    batch_size: int = 256
    optimizer: Optimizer = "sgd"
    lr: float = 0.4
    warmup: float = 0.25
    momentum: float = 0.9
    weight_decay: float = 5e-4
    label_smoothing: float = 0.1
    ema_decay: float = 0.995
    grad_clip: float = 5.0
    crop_padding: int = 4
    cutout: int = 0
    flip: bool = True
    fine_tunes: bool = False
    restored: bool = False
    trained: Trained = "all"
    attack_steps: int = 0
    attack_eps: float = 8 / 255
    attack_step_size: float | None = None
    eps_ramp: float = 0.0
    attack_noise: float = 1.0
    attack_projected: bool = True
    photometric: float = 0.0

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
            "cutout": (0, 4096),
            "attack_steps": (0, 1000),
            "attack_eps": (0.0, 1.0),
            "eps_ramp": (0.0, 1.0),
            "attack_noise": (0.0, 10.0),
            "photometric": (0.0, 0.99),
        }
        for field, (low, high) in bounds.items():
            value = getattr(self, field)
            if not low <= value <= high:
                raise ConfigError(f"{field} is {value}, expected {low} to {high}")
        for field, kind in (("trained", Trained), ("optimizer", Optimizer)):
            if getattr(self, field) not in get_args(kind):
                raise ConfigError(f"{field} is {getattr(self, field)!r}, expected one of {', '.join(get_args(kind))}")

    @property
    def passes(self) -> int:
        """Network passes of one step in units of N: 2N standard, 3N ABNN, 2N(t + 1) PGD-AT (the papers' count).

        Forward and backward count one each. A training step of an adaptive network adds the substitute's forward; an
        attack through both networks adds its forward and backward, t times.
        """
        return 2 + self.adaptive + self.attack_steps * (2 + 2 * self.adaptive)

    @property
    def step_size(self) -> float:
        """Share of the budget that one attack step goes."""
        if self.attack_step_size is not None and self.attack_eps:
            return self.attack_step_size / self.attack_eps
        if not self.attack_projected:
            return 1.0
        return 1.25 if self.attack_steps == 1 else 2.5 / max(self.attack_steps, 1)


RECIPES = {
    recipe.name: recipe
    for recipe in (
        Recipe(name="standard", summary="the network alone, on clean data; also pre-trains substitutes"),
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
            batch_size=128,
            lr=0.1,
            label_smoothing=0.0,
            ema_decay=0.9996,
            attack_steps=1,
            attack_noise=2.0,
            attack_projected=False,
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
            summary="the same from random features, which stay as they are",
            trained="norm",
            epochs=4,
            lr=0.5,
            attack_steps=5,
        ),
        Recipe(
            name="probe",
            summary="a trained network, frozen, with a new head on clean data; of a robust substitute: robust-probe",
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
    """The recipe called `name`; ConfigError lists those there are."""
    if name not in RECIPES:
        raise ConfigError(f"no recipe named {name!r}, expected one of {', '.join(RECIPES)}")
    return RECIPES[name]


def with_settings(recipe: Recipe, settings: Iterable[str]) -> Recipe:
    """`recipe` with fields set from texts such as `cutout=8`; ConfigError for what is no field or not its type."""
    kinds = {field.name: str(field.type) for field in fields(Recipe) if field.name not in _FIXED}
    given: dict[str, Any] = {}
    for setting in settings:
        name, _, text = setting.partition("=")
        if name not in kinds:
            raise ConfigError(f"a recipe has no setting {name!r}, expected one of {', '.join(kinds)}")
        try:
            given[name] = _PARSERS[kinds[name]](text)
        except (ValueError, KeyError):
            raise ConfigError(f"{name} is {text!r}, expected {name}=VALUE with {_EXPECTED[kinds[name]]}") from None
    return replace(recipe, **given)


_FIXED = frozenset({"name", "summary", "adaptive", "fine_tunes", "restored"})
_PARSERS: dict[str, Any] = {
    "int": int,
    "float": float,
    "float | None": float,
    "bool": {"true": True, "false": False}.__getitem__,
    "Trained": str,
    "Optimizer": str,
}
_EXPECTED = {
    "int": "a whole number",
    "float": "a number",
    "float | None": "a number",
    "bool": "true or false",
    "Trained": "what learns",
    "Optimizer": "its name",
}
