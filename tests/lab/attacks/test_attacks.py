from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from abnn_serve.answer import rectangle
from abnn_serve.errors import ConfigError
from abnn_serve.lab.attacks.base import is_correct, margins
from abnn_serve.lab.attacks.ensemble import Ensemble, worst_case
from abnn_serve.lab.attacks.pgd import FGSM, PGD
from abnn_serve.lab.attacks.rays import RayS
from abnn_serve.lab.attacks.roa import ROA
from abnn_serve.lab.attacks.square import Square

EVERY = [
    FGSM(),
    PGD(steps=3),
    PGD(steps=3, norm="L2", eps=0.5),
    PGD(steps=2, loss="margin", restarts=3, decay="cosine"),
    Square(queries=20),
    RayS(queries=20),
    ROA(steps=2),
    ROA(steps=2, search="exhaustive", stride=5),
    worst_case(queries=5),
]


class _Linear(nn.Module):
    """Logits are a linear map of the pixels, so that every attack's optimum is known."""

    def __init__(self, size: int = 12, classes: int = 4) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(3)
        self.weight = nn.Parameter(torch.randn(classes, 3 * size * size, generator=generator) / size)

    def forward(self, x: Tensor) -> Tensor:
        return (x - 0.5).flatten(1) @ self.weight.T


def _batch(model: nn.Module, count: int = 6, size: int = 12, seed: int = 0) -> tuple[Tensor, Tensor]:
    x = 0.3 + 0.4 * torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(seed))
    return x, model(x).argmax(dim=1)


@pytest.mark.parametrize("attack", EVERY, ids=lambda attack: attack.name)
def test_the_same_seed_gives_the_same_images_and_the_model_is_left_as_it_was(attack):
    model = nn.Sequential(nn.Dropout(0.5), _Linear()).train()
    x, y = _batch(model[1])
    first, again = attack(model, x, y, seed=1), attack(model, x, y, seed=1)
    assert torch.equal(first, again)
    assert model.training
    assert all(module.training for module in model.modules())
    assert model[1].weight.requires_grad
    assert model[1].weight.grad is None
    assert not first.requires_grad


@settings(max_examples=25)
@given(st.sampled_from(EVERY), st.integers(0, 10**6), st.booleans())
def test_no_attack_leaves_its_budget_or_0_to_1(attack, seed, early_stop):
    model = _Linear()
    x, y = _batch(model, seed=seed)
    x_adv = attack(model, x, y, seed=seed, early_stop=early_stop)
    change = x_adv - x
    assert x_adv.min() >= 0
    assert x_adv.max() <= 1
    if attack.norm == "Linf":
        assert change.abs().max() <= attack.eps + 1e-6
    elif attack.norm == "L2":
        assert change.flatten(1).norm(dim=1).max() <= attack.eps + 1e-5
    else:
        touched = (change != 0).any(dim=1)
        assert touched.flatten(1).float().mean(dim=1).max() <= attack.eps + 1e-9
        for sample in touched:
            rows, columns = sample.any(dim=1).nonzero(), sample.any(dim=0).nonzero()
            height, width = (int(index.max() - index.min()) + 1 for index in (rows, columns))
            assert height * width <= attack.eps * sample.numel()


def test_fgsm_on_a_linear_model_is_the_sign_of_its_weights():
    model = _Linear(classes=2)
    x, y = _batch(model)
    away = (model.weight[1 - y] - model.weight[y]).sign().view_as(x)
    torch.testing.assert_close(FGSM(eps=0.05)(model, x, y, early_stop=False), x + 0.05 * away)


@pytest.mark.parametrize("loss", ["ce", "margin"])
def test_pgd_reaches_the_best_point_of_the_ball_of_a_linear_model(loss):
    model = _Linear(classes=2)
    x, y = _batch(model)
    weights = (model.weight[1 - y] - model.weight[y]).view_as(x)
    attack = PGD(eps=0.05, steps=20, loss=loss)
    torch.testing.assert_close(attack(model, x, y, early_stop=False), x + 0.05 * weights.sign(), atol=1e-6, rtol=0)
    in_l2 = PGD(eps=0.5, norm="L2", steps=20, loss=loss)(model, x, y, early_stop=False)
    best = x + 0.5 * weights / weights.flatten(1).norm(dim=1)[:, None, None, None]
    torch.testing.assert_close(in_l2, best, atol=0.02, rtol=0)


def test_a_sample_that_is_wrong_already_is_left_alone():
    model = _Linear()
    x, y = _batch(model)
    y[0] = (y[0] + 1) % 4
    x_adv = PGD(steps=5, random_start=False)(model, x, y)
    assert torch.equal(x_adv[0], x[0])
    assert not torch.equal(x_adv[1], x[1])


def test_margin_restarts_try_every_wrong_class():
    """One class is hard to leave for all but the last-ranked class: only a restart that goes there succeeds."""

    class Walled(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            level = x.mean(dim=(1, 2, 3))
            true = torch.full_like(level, 1.0)
            near, far = 0.9 - 0 * level, -20 * (0.55 - level).relu() + 1.05
            return torch.stack([true, near, far.where(level > 0.5, -20 * (0.55 - level) + 1.05)], dim=1)

    model, x, y = Walled(), torch.full((1, 3, 4, 4), 0.5), torch.tensor([0])
    stuck = PGD(eps=0.06, loss="margin", restarts=1, random_start=False)
    assert is_correct(model, stuck(model, x, y), y).all()
    assert not is_correct(model, PGD(eps=0.06, loss="margin", restarts=2, random_start=False)(model, x, y), y).any()


def test_square_breaks_a_linear_model_with_queries_alone():
    model = _Linear()
    x, y = _batch(model, count=8)

    def without_gradient(images: Tensor) -> Tensor:
        assert not torch.is_grad_enabled()
        return model(images)

    after_few = is_correct(model, Square(eps=0.03, queries=2)(without_gradient, x, y), y).sum()
    after_many = is_correct(model, Square(eps=0.03, queries=300)(without_gradient, x, y), y).sum()
    assert after_many < after_few


def test_square_never_makes_a_sample_harder_to_break_with_more_queries():
    model = _Linear()
    x, y = _batch(model)
    reached = [
        margins(model(Square(eps=0.02, queries=queries)(model, x, y, early_stop=False)), y) for queries in (1, 10, 100)
    ]
    assert (reached[1] >= reached[0]).all()
    assert (reached[2] >= reached[1]).all()


def test_rays_finds_nearly_the_least_change_of_a_linear_model_from_classes_alone():
    model = _Linear(classes=2)
    x, y = _batch(model, count=8)
    weight = model.weight[0] - model.weight[1]
    least = ((x - 0.5).flatten(1) @ weight).abs() / weight.abs().sum()  # by the dual norm
    asked = {"images": 0}

    def classes_alone(images: Tensor) -> Tensor:
        asked["images"] += len(images)
        return nn.functional.one_hot(model(images).argmax(dim=1), 2).float()

    found = {}
    for queries in (60, 3000):
        asked["images"] = 0
        x_adv = RayS(eps=1.0, queries=queries)(classes_alone, x, y, early_stop=False)
        assert asked["images"] <= queries * len(x)
        assert not is_correct(model, x_adv, y).any()
        found[queries] = (x_adv - x).abs().flatten(1).amax(dim=1)
    assert (found[3000] <= found[60]).all()
    assert (found[3000] >= least - 1e-6).all()
    assert (found[3000] <= 2 * least + 0.5 / 255).all()


def test_rays_stops_asking_once_a_sample_breaks_within_its_budget():
    model = _Linear(classes=2)
    x, y = _batch(model, count=4)
    asked = []
    x_adv = RayS(eps=0.2, queries=500)(lambda images: (asked.append(len(images)), model(images))[1], x, y)
    assert not is_correct(model, x_adv, y).any()
    assert sum(asked) < 4 * 100
    assert (x_adv - x).abs().max() <= 0.2 + 1e-6


@pytest.mark.parametrize("search", ["exhaustive", "gradient"])
@pytest.mark.parametrize("corner", [(0, 0), (0, 11), (11, 0), (11, 11)])
def test_roa_finds_the_one_pixel_that_matters_at_every_edge(search, corner):
    class Corner(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            pixel = x[:, :, corner[0], corner[1]].sum(dim=1)
            return torch.stack([3 - pixel, pixel], dim=1)

    model, x = Corner(), torch.zeros(2, 3, 12, 12)
    y = model(x).argmax(dim=1)
    attack = ROA(eps=0.1, steps=10, search=search, stride=5, candidates=4)
    assert not is_correct(model, attack(model, x, y), y).any()


@given(st.floats(0.01, 1), st.integers(4, 300), st.integers(4, 300))
def test_a_rectangle_never_exceeds_its_area(area, height, width):
    rows, columns = rectangle(area, height, width)
    assert 1 <= rows <= height
    assert 1 <= columns <= width
    assert rows * columns <= max(1, area * height * width * (1 + 1e-6)) or 1 in (rows, columns)


def test_an_ensemble_is_the_worst_case_of_its_attacks():
    model = _Linear()
    x, y = _batch(model, count=40)
    parts = (FGSM(eps=0.004), PGD(eps=0.004, steps=4, loss="margin"))
    together = is_correct(model, Ensemble(eps=0.004, attacks=parts)(model, x, y), y)
    apart = [is_correct(model, part(model, x, y), y) for part in parts]
    assert together.sum() <= min(part.sum() for part in apart)
    assert 0 < together.sum() < len(x)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: PGD(eps=-1), "eps is -1, expected a budget"),
        (lambda: PGD(norm="L1"), "PGD's norm is 'L1', expected Linf or L2"),
        (lambda: PGD(steps=0), "0 steps and 1 restarts, expected at least 1"),
        (lambda: ROA(eps=0), r"ROA's eps is 0, expected a share of the area in \(0, 1\]"),
        (lambda: ROA(search="all"), "ROA's search is 'all', expected exhaustive or gradient"),
        (lambda: Square(queries=0), "Square has 0 queries"),
        (lambda: RayS(queries=0), "RayS has 0 queries"),
        (lambda: Ensemble(attacks=(FGSM(eps=0.1), FGSM(eps=0.2)), eps=0.1), "must share one eps and one norm"),
    ],
)
def test_impossible_attacks_are_refused(make, message):
    with pytest.raises(ConfigError, match=message):
        make()


@pytest.mark.parametrize("loss", ["ce", "margin"])
def test_more_restarts_on_a_surrogate_leave_no_smaller_margin(loss):
    model = _Linear()
    x, y = _batch(model, count=16)
    attacks = [PGD(eps=0.004, steps=3, loss=loss, restarts=restarts) for restarts in (1, 5)]
    once, often = (margins(model(attack(model, x, y, early_stop=False)), y) for attack in attacks)
    assert (often >= once - 1e-6).all()
