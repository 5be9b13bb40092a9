"""Training state: weights, their moving average, optimiser, schedule and metrics; what a checkpoint saves."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from abnn_serve.lab.abnn.network import Network
from abnn_serve.lab.training.optimizer import build_optimizer
from abnn_serve.lab.training.recipe import Recipe


class TrainingState:
    """Everything that changes during training.

    Attributes:
        average: exponential moving average of `network`, in eval mode; the weights that a run keeps.
        steps: training steps of one epoch.
        history: one record for each finished epoch.
    """

    def __init__(self, network: Network, recipe: Recipe, steps: int) -> None:
        self.network = network
        self.recipe = recipe
        self.steps = steps
        self.average = copy.deepcopy(network).eval().requires_grad_(requires_grad=False)
        self._parameters = list(network.parameters())
        self._averaged: _Averaged | None = None
        self.optimizer = build_optimizer(network, recipe)
        total = max(steps * recipe.epochs, 10)  # OneCycleLR divides by zero on a cycle of few steps
        self.schedule = torch.optim.lr_scheduler.OneCycleLR(
            self.optimizer, recipe.lr, total_steps=total, pct_start=recipe.warmup, cycle_momentum=False
        )
        self.history: list[dict[str, Any]] = []
        half_life = recipe.ema_half_life
        self._decay = recipe.ema_decay if half_life is None else 0.5 ** (1 / (half_life * total))

    @property
    def epoch(self) -> int:
        """Number of finished epochs."""
        return len(self.history)

    @property
    def progress(self) -> float:
        """Elapsed share of the training, in [0, 1]."""
        return self.schedule.last_epoch / self.schedule.total_steps

    def step(self) -> None:
        """Update weights, schedule and average from the gradients of one batch."""
        nn.utils.clip_grad_norm_(self._parameters, self.recipe.grad_clip)
        self.optimizer.step()
        self.schedule.step()
        self.optimizer.zero_grad(set_to_none=True)
        self._average()

    @torch.no_grad()
    def _average(self) -> None:
        step = self.schedule.last_epoch
        decay = min(self._decay, step / (step + 9))  # a short memory at first, when weights change fast
        if self._averaged is None:  # in training mode, which shows what learns
            self._averaged = _changing(self.network, self.average)
        pairs = self._averaged
        torch._foreach_lerp_(pairs.means, pairs.values, 1 - decay)
        for mean, value in pairs.counters:
            mean.copy_(value)

    def finish_epoch(self, entry: dict[str, Any]) -> None:
        """Append the record of an epoch."""
        self.history.append({"epoch": self.epoch + 1, **entry})

    def dump(self) -> dict[str, Any]:
        """The state as tensors and plain values, for `torch.save`."""
        parts = {name: getattr(self, name).state_dict() for name in ("network", "average", "optimizer", "schedule")}
        return {**parts, "history": self.history}

    def load(self, saved: dict[str, Any]) -> None:
        """Restore what `dump` returned."""
        for name in ("network", "average", "optimizer", "schedule"):
            getattr(self, name).load_state_dict(saved[name])
        self.history = saved["history"]


@dataclass(frozen=True)
class _Averaged:
    """Tensors of the average and those of the network that they follow; `counters` holds pairs of whole numbers."""

    means: list[Tensor]
    values: list[Tensor]
    counters: list[tuple[Tensor, Tensor]]


def _changing(network: nn.Module, average: nn.Module) -> _Averaged:
    """The parameters that learn, and the buffers of modules in training mode: nothing else of a network changes."""
    pairs: dict[Tensor, Tensor] = {}  # shared weights count once
    for module, mean in zip(network.modules(), average.modules(), strict=True):
        parameters = module.named_parameters(recurse=False)
        names = [name for name, parameter in parameters if parameter.requires_grad]
        names += [name for name, _ in module.named_buffers(recurse=False) if module.training]
        pairs |= {getattr(module, name): getattr(mean, name) for name in names}
    averaged = {value.detach(): mean for value, mean in pairs.items() if value.is_floating_point()}
    return _Averaged(
        means=list(averaged.values()),
        values=list(averaged),
        counters=[(mean, value) for value, mean in pairs.items() if not value.is_floating_point()],
    )
