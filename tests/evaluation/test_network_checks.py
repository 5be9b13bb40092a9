from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from abnn_serve.evaluation.detached import DetachedStatistics
from abnn_serve.evaluation.network_checks import check_network
from abnn_serve.evaluation.outcomes import Trial
from abnn_serve.evaluation.threats import Subject
from abnn_serve.evaluation.trials import run_trials
from abnn_serve.lab.attacks.adaptive import ExpectedNetwork, StraightThroughNetwork
from abnn_serve.lab.attacks.pgd import PGD


class _Wrapped(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner


class QuantisedInput(_Wrapped):
    def forward(self, x: Tensor) -> Tensor:
        return self.inner((x * 15).round() / 15)


class Noisy(_Wrapped):
    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x) + 0.1 * torch.randn(len(x), 1)


class SharesFate(_Wrapped):
    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.inner(x)
        return logits - 0.1 * logits.mean(dim=0, keepdim=True)


class Probabilities(_Wrapped):
    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x).softmax(dim=1)


class Saturated(_Wrapped):
    def forward(self, x: Tensor) -> Tensor:
        return 1e4 * self.inner(x)


def failed(checks: object) -> set[str]:
    return {check.name for check in checks if not check.passed}


@pytest.fixture
def images(val_data):
    return val_data.part(slice(24))


def test_a_plain_network_passes_every_check(standard_run, images):
    assert failed(check_network(standard_run.network(), images)) == set()


@pytest.mark.parametrize(
    ("defence", "expected"),
    [
        (
            QuantisedInput,
            {
                "gradients do not vanish",
                "steps without a gradient are attacked straight through",
                "the loss rises under attack",
            },
        ),
        (Noisy, {"randomness is attacked through its expectation"}),
        (SharesFate, {"logits do not depend on batch neighbours"}),
        (Probabilities, {"logits are not probabilities"}),
        (Saturated, {"gradients do not vanish"}),
    ],
)
def test_a_planted_defence_is_flagged(defence, expected, standard_run, images):
    assert expected <= failed(check_network(defence(standard_run.network()), images))


def test_adaptive_attacks_pass_the_checks_that_ask_for_them(standard_run, images):
    rounding = QuantisedInput(standard_run.network()).eval()
    checks = check_network(rounding, images, differentiated=StraightThroughNetwork(rounding))
    assert failed(checks) == set()
    assert "differentiated as the identity" in "".join(check.detail for check in checks)
    noisy = Noisy(standard_run.network()).eval()
    checks = check_network(noisy, images, differentiated=ExpectedNetwork(noisy, 16), draws=16)
    assert failed(checks) <= {"logits do not depend on batch neighbours"}  # its noise is as large
    assert "the mean of 16 draws" in "".join(check.detail for check in checks)


def test_rounding_that_seems_robust_is_broken_straight_through(standard_run, images):
    trial = [Trial(threat_model="whitebox", attack=PGD(eps=0.1, steps=10, random_start=False))]
    left = {}
    for straight_through in (False, True):
        network = QuantisedInput(standard_run.network()).eval()
        evaluation = run_trials(Subject(network=network, straight_through=straight_through), images, trial)
        left[straight_through] = evaluation.worst["whitebox"].correct
        clean = evaluation.clean.sum()
    assert left[False] == clean
    assert left[True] < 0.7 * clean


class RandomFeatures(_Wrapped):
    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x + 0.3 * torch.randn_like(x))


def test_a_random_network_is_broken_through_its_expectation_and_draws_the_same_again(standard_run, images):
    trial = [Trial(threat_model="whitebox", attack=PGD(eps=0.1, steps=5))]
    outcomes = []
    for _ in range(2):
        subject = Subject(network=RandomFeatures(standard_run.network()).eval(), draws=8)
        outcomes.append(run_trials(subject, images, trial).outcomes[0])
    np.testing.assert_array_equal(outcomes[0].images, outcomes[1].images)
    np.testing.assert_array_equal(outcomes[0].is_correct, outcomes[1].is_correct)


def test_detached_statistics_are_flagged(abnn_run, images):
    network = abnn_run.network()
    for layer in network.adaptive_layers:
        nn.init.normal_(layer.map, std=0.2)
    assert "gradients match finite differences" not in failed(check_network(network, images))
    assert "gradients match finite differences" in failed(check_network(DetachedStatistics(network), images))
