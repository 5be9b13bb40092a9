"""The interface of an attack, and the iteration that the gradient attacks share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, fields
from typing import Literal

import torch
from torch import Tensor, nn

from abnn_serve.card import Norm
from abnn_serve.errors import ConfigError
from abnn_serve.lab.attacks.regions import Region

Model = Callable[[Tensor], Tensor]  # float (N, 3, H, W), or (N, 3, T, H, W), in [0, 1] to logits (N, classes)
Loss = Callable[[Tensor, Tensor], Tensor]  # logits (n, classes) and sample indices (n,) to the loss to maximise, (n,)
LossName = Literal["ce", "margin"]


@dataclass(frozen=True, slots=True)
class Passes:
    """Passes of the model for one sample, at most: `gradients`, forward and backward, and `queries`, forward alone."""

    gradients: int = 0
    queries: int = 0

    def __add__(self, other: Passes) -> Passes:
        return Passes(self.gradients + other.gradients, self.queries + other.queries)


@dataclass(frozen=True, slots=True, kw_only=True)
class Attack(ABC):
    """An untargeted attack within a budget; `attack(model, x, y)` returns the adversarial images.

    Attributes:
        eps: budget, in units of [0, 1] pixels; for a patch, the share of the area.
    """

    eps: float = 8 / 255

    def __post_init__(self) -> None:
        if not 0 <= self.eps <= 1000:
            raise ConfigError(f"eps is {self.eps}, expected a budget in units of [0, 1] pixels, such as 8/255")

    @property
    @abstractmethod
    def name(self) -> str:
        """Name in reports."""

    @property
    @abstractmethod
    def passes(self) -> Passes:
        """Its cost for a sample that it does not break."""

    def passes_if_broken(self, *, early_stop: bool) -> Passes:
        """Its cost for a sample that it breaks soon, roughly."""
        return Passes() if early_stop else self.passes

    @property
    def norm(self) -> Norm:
        """Norm of the budget."""
        return "Linf"

    @property
    def needs_gradient(self) -> bool:
        """Whether it differentiates the model; if not, it only queries logits."""
        return True

    @abstractmethod
    def perturb(self, model: Model, x: Tensor, y: Tensor, generator: torch.Generator, *, early_stop: bool) -> Tensor:
        """Adversarial images for one batch, with the model in eval mode; arguments as in `__call__`."""

    @property
    def parameters(self) -> dict[str, float | int | str | bool | None]:
        """All parameters but eps, as the card lists them."""
        return {field.name: getattr(self, field.name) for field in fields(self) if field.name != "eps"}

    def __call__(self, model: Model, x: Tensor, y: Tensor, *, seed: int = 0, early_stop: bool = True) -> Tensor:
        """Attack one batch with the model in eval mode.

        Args:
            model: returns logits; a Module's mode is restored afterwards.
            x: float (N, 3, H, W), or (N, 3, T, H, W), in [0, 1].
            y: int64 (N,), the true classes.
            seed: random seed.
            early_stop: stop attacking a sample once `model` misclassifies it; use False on a surrogate.

        Returns:
            the adversarial images, of x's shape.
        """
        generator = torch.Generator().manual_seed(seed)
        with evaluating(model):
            return self.perturb(model, x, y, generator, early_stop=early_stop).detach()


class EvalMode:
    """Puts one Module in eval mode and freezes its weights, as often as it is called, listing its modules only once."""

    def __init__(self, model: Model) -> None:
        self._modules = list(model.modules()) if isinstance(model, nn.Module) else []
        self._weights = list(model.parameters()) if isinstance(model, nn.Module) else []

    @contextmanager
    def __call__(self) -> Iterator[None]:
        """Eval mode and frozen weights inside the context; both are restored after it."""
        modules = [module for module in self._modules if module.training]
        weights = [weight for weight in self._weights if weight.requires_grad]
        try:
            for module in modules:
                module.training = False
            for weight in weights:
                weight.requires_grad_(False)  # noqa: FBT003
            yield
        finally:
            for module in modules:
                module.training = True
            for weight in weights:
                weight.requires_grad_(True)  # noqa: FBT003


def evaluating(model: Model) -> AbstractContextManager[None]:
    """Put a Module in eval mode and freeze its weights; restore both afterwards."""
    return EvalMode(model)()


def ascend(
    model: Model,
    x: Tensor,
    y: Tensor,
    start: Tensor,
    region: Region,
    *,
    loss: Loss,
    step_sizes: list[float],
    early_stop: bool = True,
) -> Tensor:
    """Projected steepest ascent of `loss` from `start`: the iteration of FGSM, PGD, ROA and adversarial training.

    Args:
        model: returns logits, in eval mode.
        x: float (N, 3, [T,] H, W) in [0, 1], the clean images.
        y: int64 (N,), the true classes.
        start: first iterate, within the region.
        region: every iterate is projected to it.
        loss: one value per sample, to maximise.
        step_sizes: length of each step, in the units of x.
        early_stop: stop at the first iterate that the model misclassifies.

    Returns:
        float, of x's shape: for each sample the iterate at which it stopped, else the last one.
    """
    best = start.clone()
    active = torch.arange(len(x), device=x.device)
    x_adv = start
    for size in step_sizes:
        x_adv = x_adv.detach().requires_grad_()
        logits = model(x_adv)
        (gradient,) = torch.autograd.grad(loss(logits, active).sum(), x_adv)
        x_adv = x_adv.detach()
        if early_stop:
            unbroken = (logits.detach().argmax(dim=1) == y[active]).nonzero().flatten()
            if len(unbroken) < len(active):
                active, x_adv, gradient = active[unbroken], x_adv[unbroken], gradient[unbroken]
            if not len(active):
                break
        x_adv = region.of(active).project(x[active], region.of(active).step(x_adv, gradient, size))
        best[active] = x_adv
    return best


def cross_entropy(y: Tensor) -> Loss:
    """Cross-entropy with the true classes y, (N,)."""
    return lambda logits, index: nn.functional.cross_entropy(logits.float(), y[index], reduction="none")


def margin(y: Tensor, target: Tensor | None = None) -> Loss:
    """The largest wrong logit, or that of class `target`, minus the true one: positive if misclassified."""
    return lambda logits, index: margins(logits, y[index], None if target is None else target[index])


def margins(logits: Tensor, y: Tensor, target: Tensor | None = None) -> Tensor:
    """`margin` of logits (N, classes), float32 (N,)."""
    logits = logits.float()
    true = logits.gather(1, y[:, None]).squeeze(1)
    if target is not None:
        return logits.gather(1, target[:, None]).squeeze(1) - true
    return logits.scatter(1, y[:, None], -torch.inf).amax(dim=1) - true


def as_images(model: Model, x: Tensor) -> tuple[Model, Tensor]:
    """Fold clips into images of 3 T channels, (N, 3 T, H, W), and return a model that takes them; images stay as is."""
    if x.dim() == 4:
        return model, x
    channels = x.shape[1:3]
    return lambda folded: model(folded.unflatten(1, channels)), x.flatten(1, 2)


@torch.no_grad()
def is_correct(model: Model, x: Tensor, y: Tensor) -> Tensor:
    """Which samples the model classifies correctly, bool (N,)."""
    return model(x).argmax(dim=1) == y
