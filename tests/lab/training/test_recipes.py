from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from abnn_serve.errors import ConfigError
from abnn_serve.lab.attacks.regions import Linf
from abnn_serve.lab.data.dataset import ImageData
from abnn_serve.lab.training.adversarial import craft
from abnn_serve.lab.training.batches import to_input, training_batches
from abnn_serve.lab.training.recipe_settings import with_settings
from abnn_serve.lab.training.recipes import RECIPES, recipe_by_name
from abnn_serve.lab.training.run import Run
from abnn_serve.lab.training.train import train
from abnn_serve.spec import Labels
from tests.conftest import request_for


def _state(run: Run) -> dict[str, torch.Tensor]:
    return run.network().state_dict()


def _changed(before: dict[str, torch.Tensor], after: dict[str, torch.Tensor]) -> set[str]:
    return {name for name in before if not torch.equal(before[name], after[name])}


@pytest.mark.parametrize(
    ("name", "passes"),
    [
        ("standard", 2),
        ("abnn", 3),
        ("pgd-at", 12),
        ("fast-at", 4),
        ("n-fgsm", 4),
        ("bn-at", 12),
        ("abnn-at", 15),
        ("probe", 2),
    ],
)
def test_a_recipe_costs_the_papers_network_passes(name, passes):
    assert RECIPES[name].passes == passes


def test_settings_are_read_by_type_and_refused_by_name():
    recipe = with_settings(RECIPES["pgd-at"], ["cutout=8", "attack_eps=0.02", "flip=false", "trained=norm"])
    assert (recipe.cutout, recipe.attack_eps, recipe.flip, recipe.trained) == (8, 0.02, False, "norm")
    for setting, message in (
        ("cutuot=8", "a recipe has no setting 'cutuot', expected one of epochs"),
        ("cutout=big", "cutout is 'big', expected cutout=VALUE with a whole number"),
        ("flip=yes", "flip is 'yes', expected flip=VALUE with true or false"),
        ("trained=some", "trained is 'some', expected one of all, norm, head"),
        ("attack_eps=2", "attack_eps is 2.0, expected 0.0 to 1.0"),
    ):
        with pytest.raises(ConfigError, match=message):
            with_settings(RECIPES["standard"], [setting])
    with pytest.raises(ConfigError, match="no recipe named 'mart', expected one of standard, abnn"):
        recipe_by_name("mart")


def test_training_images_are_crafted_in_the_ball_and_raise_the_loss(standard_run, val_data):
    network = standard_run.network().train()
    x, y = to_input(val_data.images[:16]), torch.from_numpy(val_data.labels[:16])
    recipe = replace(RECIPES["pgd-at"], attack_eps=0.1, eps_ramp=0.5)
    moved = craft(recipe, network, x, y, 1.0, torch.Generator().manual_seed(0))
    halfway = craft(recipe, network, x, y, 0.25, torch.Generator().manual_seed(0))
    assert network.training
    assert (moved - x).abs().max() == pytest.approx(0.1, abs=1e-5)
    assert (halfway - x).abs().max() == pytest.approx(0.05, abs=1e-5)
    network.eval()
    loss = torch.nn.functional.cross_entropy
    assert loss(network(moved), y) > loss(network(x), y)
    assert craft(RECIPES["standard"], network, x, y, 1.0, torch.Generator()) is x


def test_n_fgsm_adds_one_whole_step_to_strong_noise_and_leaves_the_ball(standard_run, val_data):
    network = standard_run.network()
    x, y = to_input(val_data.images[:16]), torch.from_numpy(val_data.labels[:16])
    recipe = replace(RECIPES["n-fgsm"], attack_eps=0.05)
    noisy = Linf(2 * 0.05).start(x, torch.Generator().manual_seed(0))
    crafted = craft(recipe, network, x, y, 1.0, torch.Generator().manual_seed(0))
    step = (crafted - noisy)[(crafted > 0) & (crafted < 1)].abs()
    assert ((step < 1e-6) | ((step - 0.05).abs() < 1e-6)).all()
    assert 0.05 * 2 < (crafted - x).abs().max() <= 0.05 * 3 + 1e-6
    assert crafted.min() >= 0
    assert crafted.max() <= 1


def test_photometric_augmentation_changes_brightness_and_contrast_within_its_bound():
    images = np.full((64, 8, 8, 3), 100, np.uint8)
    images[:, :4] = 60
    data = ImageData(source="", images=images, labels=np.zeros(64, np.int64), classes=Labels(names=("a",)))
    recipe = replace(RECIPES["standard"], batch_size=64, crop_padding=0, flip=False, photometric=0.25)
    changed = next(training_batches(data, recipe, np.random.default_rng(0), torch.device("cpu")))[0] * 255
    means, spreads = changed.mean(dim=(1, 2, 3)) / 80, changed.amax(dim=(1, 2, 3)) - changed.amin(dim=(1, 2, 3))
    assert 0.74 < means.min() < 0.85
    assert 1.15 < means.max() < 1.26
    contrasts = spreads / 40 / means
    assert 0.7 < contrasts.min() < 0.85
    assert 1.15 < contrasts.max() < 1.3


def test_adversarial_training_watches_pgd(shapes, tmp_path):
    run = train(request_for(shapes, "fast-at", epochs=1), tmp_path / "run")
    assert 0 <= run.metrics[-1]["val_pgd_accuracy"] <= 1


def test_bn_at_changes_only_batch_norm(shapes, standard_run, tmp_path):
    run = train(request_for(shapes, "bn-at", epochs=1, init=str(standard_run.path)), tmp_path / "run")
    norms = {name for name in _state(standard_run) if ".1." in name or "running" in name or "num_batches" in name}
    changed = _changed(_state(standard_run), _state(run))
    assert changed
    assert all(_state(run)[name].dim() <= 1 for name in changed)
    assert not any("classifier" in name for name in changed)
    assert changed <= norms
    assert run.config.init_source == standard_run.path.name
    assert run.config.init_seconds == standard_run.seconds


def test_bn_at_from_scratch_keeps_its_random_features(shapes, tmp_path):
    run = train(request_for(shapes, "bn-at-scratch", epochs=1), tmp_path / "run")
    torch.manual_seed(run.config.seed)
    fresh = run.config.build().state_dict()
    assert all(torch.equal(fresh[name], value) for name, value in _state(run).items() if value.dim() == 4)


def test_a_probe_trains_the_head_alone(shapes, standard_run, tmp_path):
    run = train(request_for(shapes, "probe", epochs=1, init=str(standard_run.path)), tmp_path / "run")
    assert _changed(_state(standard_run), _state(run)) == {"body.classifier.weight", "body.classifier.bias"}


def test_abnn_at_trains_adaptive_layers_and_head_of_an_abnn_run(shapes, abnn_run, tmp_path):
    run = train(request_for(shapes, "abnn-at", epochs=1, init=str(abnn_run.path)), tmp_path / "run")
    changed = _changed(_state(abnn_run), _state(run))
    assert any(name.endswith(".map") for name in changed)
    assert not any(name.startswith("substitute.") for name in changed)
    assert not any(_state(run)[name].dim() == 4 for name in changed)
    assert run.config.plan == abnn_run.config.plan


def test_abnn_may_start_from_a_trained_target(shapes, standard_run, tmp_path):
    request = request_for(
        shapes, "abnn", epochs=1, lr=0.0001, init=str(standard_run.path), substitute=str(standard_run.path)
    )
    run = train(request, tmp_path / "run")
    started, ended = _state(standard_run), _state(run)
    kernels = [name for name in started if started[name].dim() == 4]
    assert all((ended[f"target.{name}"] - started[name]).abs().max() < 1e-2 for name in kernels)
    assert run.total_seconds == pytest.approx(run.seconds + standard_run.seconds)


@pytest.mark.parametrize(
    ("recipe", "options", "message"),
    [
        ("bn-at", {}, "'bn-at' needs --init"),
        ("standard", {"target": None}, "no network to train; give --target NAME, or --init RUN"),
        ("standard", {"substitute": "x"}, "'standard' takes no --substitute"),
        ("abnn", {}, "'abnn' needs --substitute"),
    ],
)
def test_a_request_that_lacks_something_says_what(recipe, options, message, shapes):
    with pytest.raises(ConfigError, match=message):
        request_for(shapes, recipe, **({"target": "resnet8s-w4"} | options))


def test_an_abnn_run_is_not_fine_tuned_as_a_plain_network(shapes, abnn_run, standard_run, tmp_path):
    with pytest.raises(ConfigError, match="is an ABNN run, but the recipe 'bn-at' trains plain networks"):
        train(request_for(shapes, "bn-at", init=str(abnn_run.path)), tmp_path / "run")
    with pytest.raises(ConfigError, match="with its own target, substitute and plan; leave out --substitute"):
        train(
            request_for(shapes, "abnn-at", init=str(abnn_run.path), substitute=str(standard_run.path)), tmp_path / "run"
        )
    with pytest.raises(ConfigError, match=r"--target is resnet8s-w8, but .* holds a resnet8s-w4"):
        train(request_for(shapes, "bn-at", init=str(standard_run.path), target="resnet8s-w8"), tmp_path / "run")
