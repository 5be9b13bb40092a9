from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from abnn_serve.lab.attacks.regions import L2, Linf, Occlusion

REGIONS = st.one_of(
    st.floats(0, 1).map(Linf),
    st.floats(0, 20).map(L2),
    st.integers(0, 2**31).map(
        lambda seed: Occlusion(torch.rand(3, 1, 6, 5, generator=torch.Generator().manual_seed(seed)) < 0.3)
    ),
)
SEEDS = st.integers(0, 2**31)


def _image(seed: int) -> torch.Tensor:
    return torch.rand(3, 3, 6, 5, generator=torch.Generator().manual_seed(seed))


def _inside(region: Linf | L2 | Occlusion, x: torch.Tensor, x_adv: torch.Tensor) -> bool:
    change = x_adv - x
    if isinstance(region, Linf):
        fits = change.abs().max() <= region.eps + 1e-6
    elif isinstance(region, L2):
        fits = change.flatten(1).norm(dim=1).max() <= region.eps * (1 + 1e-5) + 1e-6
    else:
        fits = change.masked_select(~region.mask).abs().sum() == 0
    return bool(fits) and bool(x_adv.min() >= 0) and bool(x_adv.max() <= 1)


@given(REGIONS, SEEDS, SEEDS, st.floats(0, 3))
def test_starts_steps_and_projections_stay_in_the_region_and_in_0_to_1(region, seed, other, size):
    x, generator = _image(seed), torch.Generator().manual_seed(other)
    start = region.start(x, generator)
    assert _inside(region, x, start)
    gradient = torch.randn(x.shape, generator=generator)
    x_adv = region.project(x, region.step(start, gradient, size))
    assert _inside(region, x, x_adv)
    torch.testing.assert_close(region.project(x, x_adv), x_adv)


@given(REGIONS, SEEDS)
def test_a_member_of_the_region_is_its_own_projection(region, seed):
    x = _image(seed)
    torch.testing.assert_close(region.project(x, x), x)


def test_a_random_start_fills_the_ball():
    x = torch.full((2000, 3, 4, 4), 0.5)
    generator = torch.Generator().manual_seed(0)
    lengths = (L2(0.1).start(x, generator) - x).flatten(1).norm(dim=1) / 0.1
    assert lengths.median() == pytest.approx(0.5 ** (1 / 48), abs=0.01)
    change = (Linf(0.1).start(x, generator) - x) / 0.1
    assert change.mean().abs() < 0.01
    assert change.std() == pytest.approx(1 / 3**0.5, abs=0.01)


def test_the_region_of_chosen_samples_has_their_masks():
    mask = torch.zeros(3, 1, 2, 2, dtype=torch.bool)
    mask[1] = True
    chosen = Occlusion(mask).of(torch.tensor([1]))
    assert chosen.mask.shape == (1, 1, 2, 2)
    assert chosen.mask.all()
