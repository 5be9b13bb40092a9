"""Networks through an answer rule, as attackers who know the rule differentiate them and as they are judged."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from abnn_serve.lab.abnn.network import ServedNetwork
from abnn_serve.lab.attacks.adaptive import ExpectedNetwork
from abnn_serve.runtime.rules.base import Rule, answer_all
from abnn_serve.runtime.rules.masks import MaskRule, most_frequent
from abnn_serve.runtime.rules.noise import NoiseRule

_DRAWS = 16  # of noise for each gradient
_LEAD = 1e-3


class MaskedNetwork(nn.Module):
    """A network through double masking: an attack on its logits attacks the predictions under all masks together.

    forward(x): float (N, 3, [T,] H, W) in [0, 1] to logits (N, classes). They are the mean over the masks of the log
    probabilities, so their cross-entropy is that of all masked predictions; the answer's logit is raised to be the
    largest, as a constant, so that an attack can stop as soon as the rule is wrong. A mask that covers the patch gives
    no gradient: the attack works on the others, and so on the majority. Confirmations of dissenters decide the answer
    but are not differentiated, because a patch cannot change those under a mask that covers it.
    """

    fill: Tensor
    views: Tensor

    def __init__(self, network: nn.Module, rule: MaskRule) -> None:
        super().__init__()
        self.network = network
        self.rule = rule
        self.count = len(rule.boxes)
        fill = torch.tensor(rule.masks.fill) / 255
        self.register_buffer("fill", fill, persistent=False)
        self.register_buffer("views", torch.from_numpy(rule.views), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        under_masks = torch.stack([self._look(x, view) for view in range(self.count)])  # (masks, N, classes)
        logits: Tensor = under_masks.log_softmax(dim=2).mean(dim=0)
        with torch.no_grad():
            labels = self._answers(x.detach(), under_masks.argmax(dim=2).T.cpu().numpy())
            index = torch.from_numpy(labels).to(x.device)[:, None]
            largest = logits.amax(dim=1, keepdim=True) + _LEAD
            raised = torch.zeros_like(logits).scatter(1, index, largest - logits.gather(1, index))
        return logits + raised

    def _look(self, x: Tensor, view: int) -> Tensor:
        hidden = self.views[view].view(*[1] * (x.dim() - 2), *x.shape[-2:])
        seen = torch.where(hidden, self.fill.view(1, 3, *[1] * (x.dim() - 2)).to(x.dtype), x)
        if not seen.requires_grad:
            logits: Tensor = self.network(seen)
        else:  # keeps one view's activations at a time
            logits = checkpoint(self.network, seen, use_reentrant=False)
        return logits.float()

    def _answers(self, x: Tensor, votes: NDArray[np.int64]) -> NDArray[np.int64]:
        """The rule's answers from the classes under each mask, int64 (N, masks).

        A pair of masks is run only for samples with a dissenter that it may still confirm.
        """
        labels = np.array([most_frequent(row) for row in votes])
        possible = votes != labels[:, None]  # dissenters without a pair against them
        for view in range(len(self.rule.views)):
            one_of = (self.rule.pairs == view).any(axis=1)  # the masks of this pair
            asked = np.flatnonzero(possible[:, one_of].any(axis=1))
            if len(asked) and view < self.count:
                classes = votes[asked, view]
            elif len(asked):
                classes = self._look(x[asked], view).argmax(dim=1).cpu().numpy()
            else:
                continue
            possible[asked] &= (votes[asked] == classes[:, None]) | ~one_of
        confirmed = possible.any(axis=1)
        labels[confirmed] = votes[confirmed, possible[confirmed].argmax(axis=1)]
        return labels


class NoisyNetwork(ExpectedNetwork):
    """A network under noise: the logarithm of its mean probabilities over some draws, new ones for every call.

    Its gradient is that of the expectation over the rule's randomness (EOT; Salman et al. 2019).
    """

    def __init__(self, network: nn.Module, sigma: float, draws: int = _DRAWS) -> None:
        super().__init__(_WithNoise(network, sigma), draws)


class _WithNoise(nn.Module):
    def __init__(self, network: nn.Module, sigma: float) -> None:
        super().__init__()
        self.network, self.sigma = network, sigma
        self._generator = torch.Generator().manual_seed(0)

    def forward(self, x: Tensor) -> Tensor:
        noise = torch.randn(x.shape, generator=self._generator).to(x)
        logits: Tensor = self.network(x + self.sigma * noise)
        return logits


@dataclass(frozen=True, slots=True)
class AnsweringNetwork:
    """A network that answers by a rule, as a bundle does, but of pixels that need not be whole numbers."""

    network: nn.Module
    rule: Rule

    @torch.no_grad()
    def __call__(self, x: Tensor) -> Tensor:
        """Float (N, 3, [T,] H, W) in [0, 1] to logits (N, classes)."""
        served = ServedNetwork(self.network)
        pixels = (x.detach() * 255).movedim(1, -1).cpu().numpy()
        answers = answer_all(self.rule, pixels, lambda p: served(torch.from_numpy(p).to(x.device)).cpu().numpy())
        return torch.from_numpy(np.stack([answer.logits for answer in answers])).to(x.device)


def attacked_through(network: nn.Module, rule: Rule | None) -> nn.Module:
    """The model whose gradient an attacker on `network` with this rule uses."""
    if isinstance(rule, MaskRule):
        return MaskedNetwork(network, rule).to(_device(network)).eval()
    return NoisyNetwork(network, rule.noise.sigma).eval() if isinstance(rule, NoiseRule) else network


def _device(network: nn.Module) -> torch.device:
    parameter = next(network.parameters(), None)
    return torch.device("cpu") if parameter is None else parameter.device
