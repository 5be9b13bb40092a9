from __future__ import annotations

import pytest
import torch

from abnn_serve.errors import ConfigError
from abnn_serve.lab.networks.zoo import build_network
from abnn_serve.lab.training.optimizer import build_optimizer, orthogonal
from abnn_serve.lab.training.recipe_settings import with_settings
from abnn_serve.lab.training.recipes import RECIPES
from abnn_serve.lab.training.train import train
from tests.conftest import request_for

_MUON = ["optimizer=muon", "momentum=0.6", "lr=0.1"]


@pytest.mark.parametrize("shape", [(16, 27), (64, 576), (96, 24)])
def test_orthogonal_brings_every_singular_value_near_one(shape):
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    values = torch.linalg.svdvals(orthogonal(matrix))
    assert values.min() > 0.3
    assert values.max() < 1.3


def test_orthogonal_keeps_the_singular_vectors():
    matrix = torch.randn(12, 40, generator=torch.Generator().manual_seed(1))
    u, _, v = torch.linalg.svd(matrix, full_matrices=False)
    turned = u.T @ orthogonal(matrix) @ v.T
    assert torch.allclose(turned, torch.diag(turned.diagonal()), atol=1e-4)


def test_muon_keeps_the_norm_of_a_convolution_and_steps_the_classifier_as_sgd_does():
    network = build_network("resnet10-w4", 10)
    recipe = with_settings(RECIPES["standard"], _MUON)
    optimizer = build_optimizer(network, recipe)
    network(torch.rand(4, 3, 32, 32)).square().sum().backward()
    before = {name: value.detach().clone() for name, value in network.named_parameters()}
    expected = before["classifier.bias"] - recipe.lr * (1 + recipe.momentum) * network.classifier.bias.grad
    optimizer.step()
    assert torch.allclose(network.classifier.bias, expected)
    for name, value in network.named_parameters():
        if value.dim() == 4:
            assert not torch.equal(value, before[name])
            assert torch.allclose(value.norm(), before[name].norm(), rtol=1e-4)


def test_muon_is_for_the_convolutions_of_clips_too():
    recipe = with_settings(RECIPES["standard"], _MUON)
    kernels = build_optimizer(build_network("resnet3d7-w4", 10), recipe).param_groups[0]
    assert kernels["orthogonal"]
    assert {weight.dim() for weight in kernels["params"]} == {5}


def test_a_muon_run_that_is_resumed_ends_with_the_weights_of_one_that_was_not(shapes, tmp_path):
    settings = {"optimizer": "muon", "momentum": 0.6, "lr": 0.1, "epochs": 2}
    whole = train(request_for(shapes, **settings), tmp_path / "whole")
    train(request_for(shapes, **settings), tmp_path / "cut")
    for name in ("weights.pt", "epoch-000002.pt"):
        (tmp_path / "cut" / name).unlink()
    resumed = train(request_for(shapes, **settings), tmp_path / "cut", resume=True)
    first, second = (torch.load(run.path / "weights.pt", weights_only=True) for run in (whole, resumed))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_an_optimizer_that_is_not_there_is_refused_by_name():
    with pytest.raises(ConfigError, match="optimizer is 'adam', expected one of sgd, muon"):
        with_settings(RECIPES["standard"], ["optimizer=adam"])
