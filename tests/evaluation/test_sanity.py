from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from abnn_serve.card import Accuracy, Curve
from abnn_serve.evaluation.outcomes import Evaluation, Outcome, Trial
from abnn_serve.evaluation.sanity import check_evaluation
from abnn_serve.evaluation.suites import choose_trials
from abnn_serve.evaluation.threats import Subject
from abnn_serve.evaluation.trials import run_trials
from abnn_serve.lab.attacks.autoattack import AutoAttack
from abnn_serve.lab.attacks.ensemble import Ensemble, worst_case
from abnn_serve.lab.attacks.pgd import PGD
from abnn_serve.lab.attacks.square import Square
from tests.evaluation.test_network_checks import QuantisedInput, failed


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
    assert failed(check_evaluation(_evaluation(val_data, white, _outcome(threat, PGD(), 30)))) == {
        f"{threat} does not beat whitebox"
    }
    assert failed(check_evaluation(_evaluation(val_data, white, _outcome(threat, PGD(), 50)))) == set()


def test_graybox_robustness_that_whitebox_takes_away_is_called_masking(val_data):
    checks = check_evaluation(_evaluation(val_data, _outcome("whitebox", PGD(), 0), _outcome("graybox", PGD(), 45)))
    (check,) = [check for check in checks if not check.passed]
    assert check.name == "robustness does not rest on hiding the substitute"
    assert "is 45.0% without" in check.detail
    assert "0.0% with it: the difference is masking, not robustness" in check.detail


def test_a_stronger_battery_with_the_gradient_is_not_called_masking(val_data):
    strong = _outcome("whitebox", PGD(restarts=5), 20)
    alike = _evaluation(val_data, _outcome("whitebox", PGD(), 42), strong, _outcome("graybox", PGD(), 45))
    assert failed(check_evaluation(alike)) == set()


def test_queries_that_beat_gradients_are_flagged(val_data):
    masked = _evaluation(val_data, _outcome("whitebox", PGD(), 40), _outcome("whitebox", Square(), 20))
    assert failed(check_evaluation(masked)) == {"queries alone do not beat gradients"}


def test_queries_inside_a_worst_case_do_not_hide_that_they_beat_gradients(standard_run, val_data):
    subject = Subject(network=QuantisedInput(standard_run.network()))
    trials = [t for t in choose_trials(Subject(network=standard_run.network()), eps=0.1) if t.attack.norm != "patch"]
    quick = [
        replace(t, attack=worst_case(0.1, queries=300) if isinstance(t.attack, Ensemble) else t.attack) for t in trials
    ]
    assert "queries alone do not beat gradients" in failed(
        check_evaluation(run_trials(subject, val_data.part(slice(24)), quick))
    )


def test_curves_that_do_not_fall_are_flagged(val_data):
    def curve(parameter: str, *shares: int) -> Curve:
        points = tuple((float(at + 1), Accuracy(correct=share, n=100)) for at, share in enumerate(shares))
        return Curve(parameter=parameter, attack="PGD", points=points)

    evaluation = _evaluation(val_data, _outcome("whitebox", PGD(), 10))
    assert failed(check_evaluation(evaluation, curve("eps", 50, 0), curve("steps", 30, 20, 20))) == set()
    assert failed(check_evaluation(evaluation, curve("eps", 50, 12), curve("steps", 20, 20, 30))) == {
        "an unbounded attack reaches 0%",
        "more steps lower the accuracy",
    }


def test_autoattacks_own_flags_reach_the_card(val_data):
    flagged = _evaluation(val_data, _outcome("whitebox", AutoAttack(), 10, flags=("it seems to be randomized",)))
    (check,) = [check for check in check_evaluation(flagged) if not check.passed]
    assert check.detail == "it seems to be randomized"
