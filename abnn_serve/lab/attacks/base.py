"""What every attack is, how one is run and judged, and the one iteration that the gradient attacks share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from typing import Literal

import torch
from torch import Tensor, nn

from abnn_serve.card import Norm
from abnn_serve.errors import ConfigError
from abnn_serve.lab.attacks.regions import Region

Model = Callable[[Tensor], Tensor]  # float (N, 3, H, W), or (N, 3, T, H, W), in [0, 1] to logits (N, classes)
Loss = Callable[[Tensor, Tensor], Tensor]  # logits (n, classes) of the samples at index (n,) to what is maximised, (n,)
LossName = Literal["ce", "margin"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Attack(ABC):
    """An adversary with a budget. `attack(model, x, y)` gives its images; labels are those it wants not to be given.

    Attributes:
        eps: budget, in units of [0, 1] pixels; for an occlusion, the share of the area.
    """

    eps: float = 8 / 255

    def __post_init__(self) -> None:
        if not 0 <= self.eps <= 1000:
            raise ConfigError(f"eps is {self.eps}, expected a budget in units of [0, 1] pixels, such as 8/255")

    @property
    @abstractmethod
    def name(self) -> str:
        """How reports call it."""

    @property
    def norm(self) -> Norm:
        """The set that its perturbations stay in."""
        return "Linf"

    @property
    def needs_gradient(self) -> bool:
        """It differentiates the model; else it only asks for logits."""
        return True

    @abstractmethod
    def perturb(self, model: Model, x: Tensor, y: Tensor, generator: torch.Generator, *, early_stop: bool) -> Tensor:
        """Adversarial images for one batch; `early_stop` leaves a sample as it is once `model` misclassifies it."""

    @property
    def parameters(self) -> dict[str, float | int | str | bool | None]:
        """Everything that decides what it does, for the card."""
        return {field.name: getattr(self, field.name) for field in fields(self) if field.name != "eps"}

    def __call__(self, model: Model, x: Tensor, y: Tensor, *, seed: int = 0, early_stop: bool = True) -> Tensor:
        """Attack one batch with the model in eval mode.

        Args:
            model: gives logits; a Module is put in eval mode and left as it was.
            x: float (N, 3, H, W), or (N, 3, T, H, W), in [0, 1].
            y: int64 (N,), the true classes.
            seed: of every random choice.
            early_stop: leave a sample as it is once `model` misclassifies it; False on a surrogate.
        """
        generator = torch.Generator().manual_seed(seed)
        with evaluating(model):
            return self.perturb(model, x, y, generator, early_stop=early_stop).detach()


@contextmanager
def evaluating(model: Model) -> Iterator[None]:
    """Eval mode and no gradients for the weights; both are put back."""
    modules = list(model.modules()) if isinstance(model, nn.Module) else []
    weights = list(model.parameters()) if isinstance(model, nn.Module) else []
    modes, wanted = [module.training for module in modules], [weight.requires_grad for weight in weights]
    try:
        for module in modules:
            module.training = False
        for weight in weights:
            weight.requires_grad_(False)  # noqa: FBT003
        yield
    finally:
        for module, mode in zip(modules, modes, strict=True):
            module.training = mode
        for weight, want in zip(weights, wanted, strict=True):
            weight.requires_grad_(want)


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
        model: gives logits, in eval mode.
        x: float (N, 3, H, W) in [0, 1], the clean images.
        y: int64 (N,), the true classes.
        start: where to begin, inside the region.
        region: what each iterate is projected to.
        loss: what is maximised, one value a sample.
        step_sizes: length of each step, in the units of x.
        early_stop: leave a sample as it is once the model misclassifies it.

    Returns:
        float (N, 3, H, W): for each sample the first iterate that broke it, else the last one.
    """
    found = start.clone()
    active = torch.arange(len(x), device=x.device)
    x_adv = start
    for size in step_sizes:
        x_adv = x_adv.detach().requires_grad_()
        logits = model(x_adv)
        (gradient,) = torch.autograd.grad(loss(logits, active).sum(), x_adv)
        x_adv = x_adv.detach()
        if early_stop:
            kept = (logits.detach().argmax(dim=1) == y[active]).nonzero().flatten()
            if len(kept) < len(active):
                active, x_adv, gradient = active[kept], x_adv[kept], gradient[kept]
            if not len(active):
                break
        x_adv = region.of(active).project(x[active], region.of(active).step(x_adv, gradient, size))
        found[active] = x_adv
    return found


def cross_entropy(y: Tensor) -> Loss:
    """Cross-entropy with the true classes y, (N,)."""
    return lambda logits, chosen: nn.functional.cross_entropy(logits.float(), y[chosen], reduction="none")


def margin(y: Tensor, target: Tensor | None = None) -> Loss:
    """A wrong logit less the true one, positive where the sample is broken; the best wrong one, or that of `target`."""
    return lambda logits, chosen: margins(logits, y[chosen], None if target is None else target[chosen])


def margins(logits: Tensor, y: Tensor, target: Tensor | None = None) -> Tensor:
    """As `margin`, of these logits, float32 (N,)."""
    logits = logits.float()
    true = logits.gather(1, y[:, None]).squeeze(1)
    if target is not None:
        return logits.gather(1, target[:, None]).squeeze(1) - true
    return logits.scatter(1, y[:, None], -torch.inf).amax(dim=1) - true


def as_images(model: Model, x: Tensor) -> tuple[Model, Tensor]:
    """Clips as images of 3 T channels, (N, 3 T, H, W), and the model of these, for attacks that know images only."""
    if x.dim() == 4:
        return model, x
    channels = x.shape[1:3]
    return lambda folded: model(folded.unflatten(1, channels)), x.flatten(1, 2)


@torch.no_grad()
def is_correct(model: Model, x: Tensor, y: Tensor) -> Tensor:
    """Which samples the model classifies correctly, bool (N,)."""
    return model(x).argmax(dim=1) == y
