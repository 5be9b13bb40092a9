"""What a training step asks of a device: operators, as regression numbers, and none that waits for the result."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch

from abnn_serve.lab.attacks.base import EvalMode
from abnn_serve.lab.attacks.regions import uniform
from abnn_serve.lab.training.adversarial import craft
from abnn_serve.lab.training.freezing import freeze, set_training_mode
from abnn_serve.lab.training.loop import noise_source
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
    ("abnn-at", "sgd"): 2368,
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


def _plain_steps(state: TrainingState, batches: list) -> tuple[dict, dict]:
    """Weights and averages after steps written plainly: a walk over all modules and all values in each."""
    network, recipe, average = state.network, state.recipe, copy.deepcopy(state.average)
    noise = torch.Generator().manual_seed(0)
    for count, (x, y) in enumerate(batches, start=1):
        x_adv = craft(recipe, network, x, y, 0.5, noise)
        loss, _ = step_loss(recipe, network, Step(x=x, x_adv=x_adv, y=y, progress=0.5), average)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), recipe.grad_clip)
        state.optimizer.step()
        state.schedule.step()
        network.zero_grad()
        decay = min(state._decay, count / (count + 9))
        for mean, value in zip(average.state_dict().values(), network.state_dict().values(), strict=True):
            mean.copy_(torch.lerp(mean, value, 1 - decay) if value.is_floating_point() else value)
    return network.state_dict(), average.state_dict()


@pytest.mark.parametrize(
    ("name", "optimizer"), [("standard", "sgd"), ("fast-at", "sgd"), ("abnn", "muon"), ("trades", "sgd")]
)
def test_ten_steps_have_the_bits_of_plainly_written_ones(name, optimizer):
    recipe = replace(RECIPES[name], optimizer=optimizer, attack_steps=min(2, RECIPES[name].attack_steps))
    state = prepared(recipe, "conditional" if recipe.adaptive else "plain")
    batches = [(torch.rand(4, 3, 32, 32), torch.randint(0, 4, (4,))) for _ in range(10)]
    plain = prepared(recipe, "conditional" if recipe.adaptive else "plain")
    plain.network.load_state_dict(state.network.state_dict())
    plain.average.load_state_dict(state.average.state_dict())
    noise, eval_mode = torch.Generator().manual_seed(0), EvalMode(state.network)
    for x, y in batches:
        x_adv = craft(recipe, state.network, x, y, 0.5, noise, eval_mode=eval_mode)
        loss, _ = step_loss(recipe, state.network, Step(x=x, x_adv=x_adv, y=y, progress=0.5), state.average)
        loss.backward()
        state.step()
    for found, expected in zip(
        (state.network.state_dict(), state.average.state_dict()), _plain_steps(plain, batches), strict=True
    ):
        assert all(torch.equal(found[key], value) for key, value in expected.items())


@pytest.mark.parametrize(
    ("trained_on", "images_on", "copies"),
    [("cpu", "cpu", False), ("cpu", "meta", True), pytest.param("cuda", "cuda", False, marks=pytest.mark.gpu)],
)
def test_noise_of_a_training_is_drawn_where_it_trains_and_copied_only_elsewhere(trained_on, images_on, copies):
    images, source = torch.empty(2, 3, device=images_on), noise_source(torch.device(trained_on))
    with Recorder() as recorder:
        noise = uniform(images, source)
    assert noise.device.type == images_on
    assert "rand" in recorder.names
    assert ("_to_copy" in recorder.names) == copies


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
