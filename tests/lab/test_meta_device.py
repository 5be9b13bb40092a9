"""Training steps and attacks on torch's `meta` device, which computes nothing and refuses tensors of another device."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.fx.experimental import _config as fx_config

from abnn_serve.lab.abnn import adaptive_norm
from abnn_serve.lab.abnn.network import PixelNetwork
from abnn_serve.lab.abnn.plan import plan_pairs
from abnn_serve.lab.abnn.surgery import apply_plan
from abnn_serve.lab.attacks.pgd import FGSM, PGD
from abnn_serve.lab.attacks.roa import ROA
from abnn_serve.lab.attacks.square import Square
from abnn_serve.lab.networks.zoo import build_network
from abnn_serve.lab.training.adversarial import craft
from abnn_serve.lab.training.freezing import freeze, set_training_mode
from abnn_serve.lab.training.recipes import RECIPES
from abnn_serve.lab.training.state import TrainingState
from abnn_serve.lab.training.terms import Step, step_loss
from abnn_serve.lab.training.views import draw_view, fill_of

META = torch.device("meta")


@pytest.fixture(autouse=True)
def _settings_of_meta(monkeypatch):
    monkeypatch.setattr(adaptive_norm, "_without_autocast", lambda _: nullcontext())  # `meta` has none
    with fx_config.patch(meta_nonzero_assume_all_nonzero=True):
        yield


FORMS = ("plain", "conditional", "linear")
SLOW = pytest.mark.slow  # all together take longer than 20 seconds


def small_network(form: str, name: str = "resnet8s-w4") -> nn.Module:
    target, substitute = (PixelNetwork(build_network(name, num_classes=4)) for _ in range(2))
    if form == "plain":
        return target
    plan = plan_pairs(target, substitute, torch.zeros(2, 3, 32, 32), form=form)
    return apply_plan(target, substitute, plan)


def network_on_meta(form: str, name: str = "resnet8s-w4") -> nn.Module:
    return small_network(form, name).to(META)


def batch() -> tuple[torch.Tensor, torch.Tensor]:
    return torch.empty(4, 3, 32, 32, device=META), torch.empty(4, dtype=torch.int64, device=META)


@pytest.mark.parametrize("optimizer", ["sgd", pytest.param("muon", marks=SLOW)])
@pytest.mark.parametrize(
    ("recipe", "form"),
    [(recipe, form) for recipe in RECIPES for form in FORMS if RECIPES[recipe].adaptive == (form != "plain")],
)
def test_a_training_step_stays_on_its_device(recipe, form, optimizer):
    recipe = replace(RECIPES[recipe], optimizer=optimizer, masking=5, mask_choices=3, noise=0.1)
    network = network_on_meta(form, "oudefend:resnet8s-w4" if recipe.restored else "resnet8s-w4")
    freeze(network, recipe.trained)
    state = TrainingState(network, recipe, steps=4)
    set_training_mode(network, recipe.trained)
    (x, y), generator = batch(), torch.Generator().manual_seed(0)
    for _ in range(2):
        view = draw_view(recipe, network, fill_of(network), x, y, generator)
        x_adv = view(craft(recipe, network, x, y, 0.5, generator, view=view))
        loss, _ = step_loss(recipe, network, Step(x=view(x), x_adv=x_adv, y=y, progress=0.5), state.average)
        loss.backward()
        state.step()
    assert {value.device for value in state.average.state_dict().values()} == {META}


@pytest.mark.parametrize("form", ["plain", pytest.param("conditional", marks=SLOW), "linear"])
@pytest.mark.parametrize(
    "attack",
    [
        FGSM(eps=8 / 255),
        PGD(eps=8 / 255, steps=2),
        PGD(eps=0.5, norm="L2", steps=2),
        PGD(eps=8 / 255, steps=2, loss="margin"),
        ROA(steps=2, candidates=3),
        Square(eps=8 / 255, queries=3),
    ],
    ids=lambda attack: f"{type(attack).__name__}-{getattr(attack, 'norm', '')}-{getattr(attack, 'loss', '')}",
)
def test_an_attack_stays_on_its_device(attack, form):
    x_adv = attack(network_on_meta(form).eval(), *batch(), early_stop=False)
    assert (x_adv.device, x_adv.shape) == (META, (4, 3, 32, 32))
