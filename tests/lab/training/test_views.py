from __future__ import annotations

from dataclasses import replace
from itertools import combinations_with_replacement

import pytest
import torch
from torch import nn

from abnn_serve.answer import mask_set
from abnn_serve.errors import ConfigError
from abnn_serve.lab.training.adversarial import craft
from abnn_serve.lab.training.batches import to_input
from abnn_serve.lab.training.distributed import ALONE, Workers
from abnn_serve.lab.training.recipes import RECIPES
from abnn_serve.lab.training.terms import consistency
from abnn_serve.lab.training.train import train
from abnn_serve.lab.training.views import accuracy_under_views, draw_view, fill_of, second_view
from tests.conftest import clip_request, request_for

MASKED = replace(RECIPES["standard"], masking=5)


def _view(recipe, network, x, y=None, seed=0, workers=ALONE):
    y = torch.zeros(len(x), dtype=torch.int64) if y is None else y
    return draw_view(recipe, network, torch.zeros(3), x, y, torch.Generator().manual_seed(seed), workers=workers)


def _pairs():
    masks = torch.from_numpy(mask_set((32, 32), (5, 5), 3))
    return [one | other for one, other in combinations_with_replacement(masks, 2)]


def test_every_image_is_hidden_by_a_pair_of_the_mask_set():
    view = _view(MASKED, nn.Identity(), torch.ones(64, 3, 32, 32))
    drawn = [mask[0] for mask in view.hidden]
    assert all(any(torch.equal(mask, pair) for pair in _pairs()) for mask in drawn)
    assert len({tuple(mask.flatten().tolist()) for mask in drawn}) > 10
    x = torch.rand(64, 3, 32, 32)
    assert torch.equal(view(x) == 0, view.hidden.expand_as(x))


def test_greedy_choice_is_the_worst_mask_and_then_the_worst_beside_it():
    x, y = torch.rand(6, 3, 32, 32), torch.arange(6) % 2
    network = nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 2), nn.Dropout(0.5))

    def losses(hidden):
        network.eval()
        with torch.no_grad():
            return nn.functional.cross_entropy(network(torch.where(hidden, 0, x)), y, reduction="none")

    masks = torch.from_numpy(mask_set((32, 32), (5, 5), 3))[:, None, None]
    first = masks[torch.stack([losses(mask) for mask in masks]).argmax(dim=0)][:, 0]
    second = masks[torch.stack([losses(first | mask) for mask in masks]).argmax(dim=0)][:, 0]
    network.train()
    view = _view(replace(MASKED, mask_choices=9), network, x, y)
    assert network.training
    assert torch.equal(view.hidden, first | second)
    few = _view(replace(MASKED, mask_choices=3), network, x, y)
    one = _view(MASKED, network, x, y)
    assert losses(view.hidden).sum() >= losses(few.hidden).sum() > losses(one.hidden).sum()


def test_two_processes_draw_the_masks_and_the_noise_of_one():
    recipe = replace(MASKED, noise=0.1)
    x = torch.rand(8, 3, 32, 32)
    whole = _view(recipe, nn.Identity(), x)
    parts = [_view(recipe, nn.Identity(), part, workers=Workers(i, 2)) for i, part in enumerate(x.chunk(2))]
    assert torch.equal(whole.hidden, torch.cat([part.hidden for part in parts]))
    assert torch.equal(whole.noise, torch.cat([part.noise for part in parts]))


def test_noise_has_the_recipes_deviation_is_not_clipped_and_differs_in_a_second_view():
    recipe = replace(MASKED, noise=0.25, consistency=1.0)
    x = torch.ones(32, 3, 32, 32)
    view = _view(recipe, nn.Identity(), x)
    assert float(view.noise.std()) == pytest.approx(0.25, rel=0.02)
    assert view(x).max() > 1.5
    again = second_view(recipe, view, x, torch.Generator().manual_seed(1))
    assert again.hidden is view.hidden
    assert not torch.equal(again.noise, view.noise)


def test_the_frames_of_a_clip_share_their_masks():
    view = _view(MASKED, nn.Identity(), torch.ones(2, 3, 4, 32, 32))
    seen = view(torch.ones(2, 3, 4, 32, 32))
    assert all(torch.equal(seen[:, :, 0], seen[:, :, frame]) for frame in range(4))
    assert 0 < float((seen == 0).float().mean()) < 1


def test_an_attack_in_training_changes_only_pixels_that_the_network_sees(standard_run, val_data):
    x, y = to_input(val_data.images[:8]), torch.from_numpy(val_data.labels[:8])
    recipe = replace(MASKED, attack_steps=2, attack_noise=0.0, attack_eps=0.1)
    view = _view(recipe, standard_run.network(), x, y)
    x_adv = craft(recipe, standard_run.network(), x, y, 1.0, torch.Generator().manual_seed(0), view=view)
    moved = (x_adv != x).any(dim=1, keepdim=True)
    assert moved.any()
    assert not (moved & view.hidden).any()


def test_consistency_is_zero_for_equal_and_sure_predictions_and_grows_with_their_difference():
    sure = torch.tensor([[50.0, 0.0], [0.0, 50.0]])
    assert float(consistency(10, sure, sure)) == pytest.approx(0, abs=1e-6)
    p = torch.tensor([[0.8, 0.2]]).log()
    q = torch.tensor([[0.4, 0.6]]).log()
    mean = torch.tensor([[0.6, 0.4]])
    entropy = -(mean * mean.log()).sum()
    divergence = ((mean * (mean.log() - p)).sum() + (mean * (mean.log() - q)).sum()) / 2
    assert float(consistency(10, p, q)) == pytest.approx(float(10 * divergence + entropy / 2), rel=1e-5)


def test_accuracy_under_masks_counts_images_that_every_pair_leaves_correct(standard_run, val_data):
    network, recipe = standard_run.network(), replace(MASKED, noise=0.05)
    measured = accuracy_under_views(network, val_data, recipe, "cpu")
    x, y = to_input(val_data.images), torch.from_numpy(val_data.labels)
    fill = fill_of(network).view(1, 3, 1, 1)
    with torch.no_grad():
        correct = torch.stack([network(torch.where(pair, fill, x)).argmax(dim=1) == y for pair in _pairs()]).all(dim=0)
    assert measured["val_masked_accuracy"] == pytest.approx(float(correct.float().mean()))
    assert 0 <= measured["val_noisy_accuracy"] <= 1
    assert accuracy_under_views(network, val_data, RECIPES["standard"], "cpu") == {}


@pytest.mark.parametrize("recipe", ["standard", "abnn"])
def test_masks_and_noise_train_every_kind_of_network(recipe, shapes, standard_run, tmp_path):
    options = {"substitute": str(standard_run.path)} if recipe == "abnn" else {}
    request = request_for(shapes, recipe, epochs=1, **options)
    harder = replace(request.recipe, masking=5, mask_choices=2, noise=0.1, consistency=5.0)
    run = train(replace(request, recipe=harder), tmp_path / "run")
    assert run.config.recipe == harder
    assert {"val_masked_accuracy", "val_noisy_accuracy"} <= run.metrics[-1].keys()
    assert (run.path / "curves.png").is_file()


def test_masks_train_on_clips(videos, tmp_path):
    request = clip_request(videos, epochs=1)
    run = train(replace(request, recipe=replace(request.recipe, masking=3, noise=0.1)), tmp_path / "run")
    assert 0 <= run.metrics[-1]["val_masked_accuracy"] <= 1


def test_a_patch_larger_than_the_image_is_refused_before_training(shapes):
    request = request_for(shapes, epochs=1)
    with pytest.raises(ConfigError, match="the patch's height is 33 pixels, expected 1 to the image's 32"):
        replace(request, recipe=replace(request.recipe, masking=33))


@pytest.mark.parametrize(
    ("settings", "passes"), [({}, 2), ({"mask_choices": 3}, 8), ({"noise": 0.1, "consistency": 1.0}, 4)]
)
def test_the_count_of_passes_includes_candidates_and_second_views(settings, passes):
    assert replace(MASKED, **settings).passes == passes
