"""Attacks on clips stay in their budget and do harm."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from abnn_serve.errors import ConfigError
from abnn_serve.evaluation.budget import project_to_budget
from abnn_serve.lab.attacks.base import is_correct, margins
from abnn_serve.lab.attacks.pgd import FGSM, PGD
from abnn_serve.lab.attacks.roa import ROA
from abnn_serve.lab.attacks.square import Square

X = torch.rand(12, 3, 4, 12, 12, generator=torch.Generator().manual_seed(0))


class _Halves(nn.Module):
    """Whether the later frames are brighter than the earlier ones: the mean difference, scaled."""

    def __init__(self, at: tuple[slice, slice] = (slice(None), slice(None))) -> None:
        super().__init__()
        self.at = at

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        seen = x[..., self.at[0], self.at[1]]
        change = 60 * (seen[:, :, 2:] - seen[:, :, :2]).mean(dim=(1, 2, 3, 4))
        return torch.stack([-change, change], dim=1)


def _labels(model: nn.Module) -> torch.Tensor:
    return model(X).argmax(dim=1)


@pytest.mark.parametrize(
    "attack",
    [FGSM(eps=8 / 255), PGD(eps=8 / 255, steps=5), PGD(eps=2.0, norm="L2", steps=5), Square(eps=16 / 255, queries=60)],
)
def test_every_ball_is_kept_and_hurts(attack):
    model = _Halves()
    y = _labels(model)
    x_adv = attack(model, X, y)
    assert x_adv.shape == X.shape
    assert 0 <= float(x_adv.min()) <= float(x_adv.max()) <= 1
    change = (x_adv - X).flatten(1)
    length = change.abs().amax(dim=1) if attack.norm == "Linf" else change.norm(dim=1)
    assert float(length.max()) <= attack.eps + 1e-6
    assert float(is_correct(model, x_adv, y).float().mean()) < 0.8
    assert torch.allclose(project_to_budget(attack, X, x_adv, as_uint8=False), x_adv, atol=1e-5)


@pytest.mark.parametrize("moving", [False, True])
def test_roa_covers_ten_percent_of_each_frame_at_one_place_or_moving(moving):
    corner = (slice(0, 4), slice(8, 12))
    model = _Halves(corner)
    y = _labels(model)
    attack = ROA(eps=0.1, steps=5, moving=moving)
    x_adv = attack(model, X, y, early_stop=False)
    changed = (x_adv != X).any(dim=1)
    assert float(changed.float().mean(dim=(2, 3)).max()) <= 0.1
    if not moving:
        assert torch.equal(changed.any(dim=1), changed.all(dim=1))
    assert bool(changed[..., corner[0], corner[1]].any())
    assert float(is_correct(model, x_adv, y).float().mean()) < 0.5
    assert torch.equal(project_to_budget(attack, X, x_adv, as_uint8=False), x_adv)
    wide = x_adv.clone()
    wide[:, :, 0] = 0.123  # one whole frame
    assert torch.equal(project_to_budget(attack, X, wide, as_uint8=False), X)


def test_a_moving_roa_goes_where_each_frame_matters():
    class _Diagonal(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            seen = torch.stack([x[:, :, t, 3 * t : 3 * t + 3, 3 * t : 3 * t + 3].mean(dim=(1, 2, 3)) for t in range(4)])
            change = 60 * (seen[2:] - seen[:2]).mean(dim=0)
            return torch.stack([-change, change], dim=1)

    model = _Diagonal()
    y = _labels(model)
    still, moving = (ROA(eps=0.0625, moving=moving)(model, X, y, early_stop=False) for moving in (False, True))
    assert margins(model(moving), y).mean() > margins(model(still), y).mean() + 1


def test_a_moving_roa_needs_the_gradient():
    with pytest.raises(ConfigError, match="search='gradient'"):
        ROA(moving=True, search="exhaustive")
