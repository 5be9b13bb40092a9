"""The budget of an attack as it is judged: images projected into it, in levels of uint8 where a service rounds."""

from __future__ import annotations

from dataclasses import replace

import torch

from abnn_serve.evaluation.served import ServedModel
from abnn_serve.lab.attacks.base import Attack, Model
from abnn_serve.lab.attacks.regions import Linf, ball


def within_uint8(attack: Attack, attacked: Model) -> Attack:
    """`attack`, with its eps rounded down to a multiple of 1/255 where it attacks a served model, which rounds."""
    if isinstance(attacked, ServedModel) and attack.norm == "Linf":
        return replace(attack, eps=_whole_levels(attack.eps))
    return attack


def _whole_levels(eps: float) -> float:
    return int(eps * 255 + 1e-6) / 255


def project_to_budget(attack: Attack, x: torch.Tensor, x_adv: torch.Tensor, *, as_uint8: bool) -> torch.Tensor:
    """The images nearest to `x_adv` within the attack's budget around x, whatever the attack returned.

    Args:
        attack: its norm and eps are the budget; a patch that exceeds its area is replaced by x.
        x: clean images, float (N, 3, [T,] H, W) in [0, 1].
        x_adv: the attack's images, of the same shape.
        as_uint8: round to multiples of 1/255, within the budget.
    """
    if attack.norm == "patch":
        x_adv = (x_adv.clamp(0, 1) * 255).round() / 255 if as_uint8 else x_adv.clamp(0, 1)
        area = (x_adv != x).any(dim=1).float().mean(dim=(-2, -1)).view(len(x), -1).amax(dim=1)  # of the worst frame
        return torch.where((area <= attack.eps + 1e-6).view(-1, *[1] * (x.dim() - 1)), x_adv, x)
    x_adv = ball(attack.norm, attack.eps).project(x, x_adv)
    if not as_uint8:
        return x_adv
    levels = ((x_adv - x) * 255).round()
    if attack.norm == "Linf":
        return Linf(_whole_levels(attack.eps)).project(x, x + levels / 255)
    return x + ((x_adv - x) * 255).trunc() / 255
