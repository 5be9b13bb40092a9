"""What a training step asks of a device: operators, as regression numbers, and none that waits for the result."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from abnn_serve.lab.attacks.base import EvalMode
from abnn_serve.lab.training.adversarial import craft
from abnn_serve.lab.training.freezing import freeze, set_training_mode
from abnn_serve.lab.training.optimizer import in_batches, orthogonal
from abnn_serve.lab.training.recipes import RECIPES
from abnn_serve.lab.training.state import TrainingState
from abnn_serve.lab.training.terms import Step, step_loss
from tests.lab.test_meta_device import small_network
from tests.lab.training.test_augmentation import WAITS, Recorder

OPERATORS = {
    ("standard", "sgd"): 266,
    ("standard", "muon"): 547,
    ("fast-at", "sgd"): 387,
    ("abnn", "sgd"): 634,
}


def prepared(recipe, form: str = "plain"):
    network = small_network(form)
    freeze(network, recipe.trained)
    state = TrainingState(network, recipe, steps=10)
    set_training_mode(network, recipe.trained)
    return state


def step(state: TrainingState, x: torch.Tensor, y: torch.Tensor) -> None:
    network, recipe = state.network, state.recipe
    x_adv = craft(recipe, network, x, y, 0.5, torch.Generator().manual_seed(0), eval_mode=EvalMode(network))
    loss, _ = step_loss(recipe, network, Step(x=x, x_adv=x_adv, y=y, progress=0.5), state.average)
    loss.backward()
    state.step()


@pytest.mark.parametrize(("name", "optimizer"), OPERATORS)
def test_a_step_runs_no_more_operators_than_it_did_and_none_that_waits(name, optimizer):
    recipe = replace(RECIPES[name], optimizer=optimizer)
    state = prepared(recipe, "conditional" if recipe.adaptive else "plain")
    x, y = torch.rand(4, 3, 32, 32), torch.tensor([0, 1, 2, 3])
    step(state, x, y)
    with Recorder() as recorder:
        step(state, x, y)
    assert not set(WAITS) & set(recorder.names)
    assert len(recorder.names) <= OPERATORS[name, optimizer]


@pytest.mark.parametrize("name", ["standard", "bn-at", "abnn"])
def test_the_average_of_ten_steps_has_the_bits_of_an_average_over_all_values(name):
    recipe = replace(RECIPES[name], attack_steps=min(1, RECIPES[name].attack_steps))
    state = prepared(recipe, "conditional" if recipe.adaptive else "plain")
    expected = {key: value.clone() for key, value in state.average.state_dict().items()}
    x, y = torch.rand(4, 3, 32, 32), torch.tensor([0, 1, 2, 3])
    for count in range(1, 11):
        step(state, x, y)
        decay = min(state._decay, count / (count + 9))
        for key, value in state.network.state_dict().items():
            if value.is_floating_point():
                expected[key].lerp_(value, 1 - decay)
            else:
                expected[key].copy_(value)
    found = state.average.state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[key], value) for key, value in expected.items())
    assert any(not torch.equal(found[key], value) for key, value in state.network.state_dict().items())


def test_matrices_of_one_shape_turn_in_a_batch_as_they_do_alone():
    matrices = [torch.randn(shape) for shape in ((8, 27), (16, 72), (8, 27), (12, 4))]
    for found, matrix in zip(in_batches(matrices), matrices, strict=True):
        torch.testing.assert_close(found, orthogonal(matrix), atol=1e-5, rtol=1e-5)


def test_eval_mode_is_left_as_it_was_found_as_often_as_it_is_used():
    network = prepared(RECIPES["bn-at"]).network
    modes = [module.training for module in network.modules()]
    learns = [weight.requires_grad for weight in network.parameters()]
    assert len(set(modes)) == len(set(learns)) == 2
    eval_mode = EvalMode(network)
    for _ in range(2):
        with eval_mode():
            assert not any(module.training for module in network.modules())
            assert not any(weight.requires_grad for weight in network.parameters())
        assert [module.training for module in network.modules()] == modes
        assert [weight.requires_grad for weight in network.parameters()] == learns
