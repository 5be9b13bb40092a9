from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from abnn_serve.card import Accuracy, Curve
from abnn_serve.evaluation.outcomes import Evaluation, Outcome, Trial
from abnn_serve.evaluation.sanity import check_evaluation, check_network
from abnn_serve.evaluation.suites import choose_trials
from abnn_serve.evaluation.threats import DetachedStatistics, Subject
from abnn_serve.evaluation.trials import run_trials
from abnn_serve.lab.attacks.adaptive import ExpectedNetwork, StraightThroughNetwork
from abnn_serve.lab.attacks.autoattack import AutoAttack
from abnn_serve.lab.attacks.ensemble import Ensemble, worst_case
from abnn_serve.lab.attacks.pgd import PGD
from abnn_serve.lab.attacks.square import Square


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


def _failed(checks: object) -> set[str]:
    return {check.name for check in checks if not check.passed}


@pytest.fixture
def images(val_data):
    return val_data.part(slice(24))


def test_a_plain_network_passes_every_check(standard_run, images):
    assert _failed(check_network(standard_run.network(), images)) == set()


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
    assert expected <= _failed(check_network(defence(standard_run.network()), images))


def test_adaptive_attacks_pass_the_checks_that_ask_for_them(standard_run, images):
    rounding = QuantisedInput(standard_run.network()).eval()
    checks = check_network(rounding, images, differentiated=StraightThroughNetwork(rounding))
    assert _failed(checks) == set()
    assert "differentiated as the identity" in "".join(check.detail for check in checks)
    noisy = Noisy(standard_run.network()).eval()
    checks = check_network(noisy, images, differentiated=ExpectedNetwork(noisy, 16), draws=16)
    assert _failed(checks) <= {"logits do not depend on batch neighbours"}  # its noise is as large
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
    assert "gradients match finite differences" not in _failed(check_network(network, images))
    assert "gradients match finite differences" in _failed(check_network(DetachedStatistics(network), images))


def _outcome(threat: str, attack: object, left: int, flags: tuple[str, ...] = ()) -> Outcome:
    return Outcome(
        trial=Trial(threat_model=threat, attack=attack),
        is_correct=np.arange(100) < left,
        images=np.zeros((100, 3, 1, 1), dtype=np.float32),
        seconds=1.0,
        flags=flags,
    )


def _evaluation(val_data, *outcomes: Outcome) -> Evaluation:
    return Evaluation(data=val_data, clean=np.ones(100, dtype=bool), outcomes=outcomes)


@pytest.mark.parametrize("threat", ["transfer", "substitute-transfer", "blackbox"])
def test_a_weaker_attacker_that_wins_is_flagged(threat, val_data):
    white = _outcome("whitebox", PGD(), 40)
    assert _failed(check_evaluation(_evaluation(val_data, white, _outcome(threat, PGD(), 30)))) == {
        f"{threat} does not beat whitebox"
    }
    assert _failed(check_evaluation(_evaluation(val_data, white, _outcome(threat, PGD(), 50)))) == set()


def test_graybox_robustness_that_whitebox_takes_away_is_called_masking(val_data):
    checks = check_evaluation(_evaluation(val_data, _outcome("whitebox", PGD(), 0), _outcome("graybox", PGD(), 45)))
    (check,) = [check for check in checks if not check.passed]
    assert check.name == "robustness does not rest on hiding the substitute"
    assert "is 45.0% without" in check.detail
    assert "0.0% with it: the difference is masking, not robustness" in check.detail


def test_a_stronger_battery_with_the_gradient_is_not_called_masking(val_data):
    strong = _outcome("whitebox", PGD(restarts=5), 20)
    alike = _evaluation(val_data, _outcome("whitebox", PGD(), 42), strong, _outcome("graybox", PGD(), 45))
    assert _failed(check_evaluation(alike)) == set()


def test_queries_that_beat_gradients_are_flagged(val_data):
    masked = _evaluation(val_data, _outcome("whitebox", PGD(), 40), _outcome("whitebox", Square(), 20))
    assert _failed(check_evaluation(masked)) == {"queries alone do not beat gradients"}


def test_queries_inside_a_worst_case_do_not_hide_that_they_beat_gradients(standard_run, images):
    subject = Subject(network=QuantisedInput(standard_run.network()))
    trials = [t for t in choose_trials(Subject(network=standard_run.network()), eps=0.1) if t.attack.norm != "patch"]
    quick = [
        replace(t, attack=worst_case(0.1, queries=300) if isinstance(t.attack, Ensemble) else t.attack) for t in trials
    ]
    assert "queries alone do not beat gradients" in _failed(check_evaluation(run_trials(subject, images, quick)))


def test_curves_that_do_not_fall_are_flagged(val_data):
    def curve(parameter: str, *shares: int) -> Curve:
        points = tuple((float(at + 1), Accuracy(correct=share, n=100)) for at, share in enumerate(shares))
        return Curve(parameter=parameter, attack="PGD", points=points)

    evaluation = _evaluation(val_data, _outcome("whitebox", PGD(), 10))
    assert _failed(check_evaluation(evaluation, curve("eps", 50, 0), curve("steps", 30, 20, 20))) == set()
    assert _failed(check_evaluation(evaluation, curve("eps", 50, 12), curve("steps", 20, 20, 30))) == {
        "an unbounded attack reaches 0%",
        "more steps lower the accuracy",
    }


def test_autoattacks_own_flags_reach_the_card(val_data):
    flagged = _evaluation(val_data, _outcome("whitebox", AutoAttack(), 10, flags=("it seems to be randomized",)))
    (check,) = [check for check in check_evaluation(flagged) if not check.passed]
    assert check.detail == "it seems to be randomized"
