from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from abnn_serve.errors import ConfigError, NetworkError
from abnn_serve.lab.training.fixed_statistics import FixedStatistics
from abnn_serve.lab.training.recipes import RECIPES
from abnn_serve.lab.training.train import train
from tests.conftest import request_for


def _network() -> nn.Sequential:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(), nn.Flatten(), nn.LazyLinear(2))
    network(torch.rand(8, 3, 8, 8))
    return network


def test_the_first_part_is_normalised_by_old_statistics_and_the_rest_by_its_own():
    network, x = _network(), 3 * torch.rand(8, 3, 8, 8)
    network[2].p = 0.0
    with torch.no_grad():
        expected_first = network.eval()(x[:4])
        network.train()
        fixed = FixedStatistics(network, 0.5)
        seen = [fixed(x) for _ in range(3)]
        expected_rest = network(x[4:])
    for logits in seen:  # although the running statistics move
        torch.testing.assert_close(logits[:4], expected_first)
        torch.testing.assert_close(logits[4:], expected_rest)
    assert network[1].training
    assert int(network[1].num_batches_tracked) == 5  # the first part leaves no trace


def test_both_parts_train_the_same_weights():
    network, x = _network(), torch.rand(8, 3, 8, 8)
    for part in (slice(0, 4), slice(4, 8)):
        network.zero_grad()
        FixedStatistics(network, 0.5)(x)[part].square().sum().backward()
        assert all(parameter.grad.abs().sum() > 0 for parameter in (network[0].weight, network[1].weight))


def test_a_network_without_running_statistics_is_refused():
    with pytest.raises(NetworkError, match="fixed_statistics needs BatchNorm layers with running statistics"):
        FixedStatistics(nn.Linear(3, 2), 0.5)
    with pytest.raises(ConfigError, match="feature_weight needs one pass of each batch"):
        replace(RECIPES["standard"], fixed_statistics=0.5, feature_weight=1.0)


def test_a_run_that_is_resumed_keeps_the_statistics_from_before_the_training(shapes, standard_run, tmp_path):
    request = request_for(shapes, init=str(standard_run.path))
    request = replace(request, recipe=replace(request.recipe, fixed_statistics=0.5))
    whole = train(request, tmp_path / "whole")
    train(request, tmp_path / "cut")
    for name in ("weights.pt", "epoch-000002.pt"):
        (tmp_path / "cut" / name).unlink()
    resumed = train(request, tmp_path / "cut", resume=True)
    first, second = (torch.load(run.path / "weights.pt", weights_only=True) for run in (whole, resumed))
    assert all(torch.equal(first[name], second[name]) for name in first)
