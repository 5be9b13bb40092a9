"""Models as an adaptive attacker differentiates them: through steps without a gradient, and through randomness.

Athalye, Carlini & Wagner, "Obfuscated Gradients Give a False Sense of Security" (ICML 2018): the backward pass takes
the identity in the place of a step (BPDA), and the gradient of a random model is that of its expectation (EOT).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

_STEPS = ("round", "floor", "ceil", "trunc", "fix", "sign")


class StraightThroughNetwork(nn.Module):
    """A network whose rounding and signs have the gradient of the identity; its logits stay the same."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        with _StraightThrough():
            logits: Tensor = self.network(x)
        return logits


class ExpectedNetwork(nn.Module):
    """A random network's expectation: the logarithm of its mean probabilities over `draws` calls, in float32."""

    def __init__(self, network: nn.Module, draws: int) -> None:
        super().__init__()
        self.network, self.draws = network, draws

    def forward(self, x: Tensor) -> Tensor:
        logits = [self.network(x).float() for _ in range(self.draws)]
        mean: Tensor = torch.stack(logits).log_softmax(dim=2).logsumexp(dim=0)
        return mean


def steps_without_gradient(network: nn.Module, x: Tensor) -> tuple[str, ...]:
    """Names of torch's functions without a gradient through which the network's logits depend on x, in order."""
    seen: dict[str, None] = {}
    with torch.enable_grad(), _Recorder(seen):
        network(x.detach().requires_grad_())
    return tuple(seen)


class _StraightThrough(TorchFunctionMode):
    def __torch_function__(
        self, func: Callable[..., Any], types: Iterable[type], args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if not _is_step(func, args):
            return result
        return args[0] + (result - args[0]).detach()


class _Recorder(TorchFunctionMode):
    def __init__(self, seen: dict[str, None]) -> None:
        super().__init__()
        self._seen = seen

    def __torch_function__(
        self, func: Callable[..., Any], types: Iterable[type], args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if _is_step(func, args):
            self._seen[func.__name__] = None
        return func(*args, **(kwargs or {}))


def _is_step(func: Callable[..., Any], args: Any) -> bool:
    has_gradient = bool(args) and isinstance(args[0], Tensor) and args[0].requires_grad
    return has_gradient and getattr(func, "__name__", "") in _STEPS
