from __future__ import annotations

import pytest

from abnn_serve import evaluate
from abnn_serve.evaluation.estimate import Shares, Speed, estimate_seconds, measure_seconds
from abnn_serve.evaluation.outcomes import Trial
from abnn_serve.evaluation.suites import ATTACKS
from abnn_serve.evaluation.threats import Subject
from abnn_serve.evaluation.trials import run_trials
from abnn_serve.lab.attacks.base import Passes
from abnn_serve.lab.attacks.pgd import PGD
from abnn_serve.lab.attacks.square import Square


def test_time_is_passes_by_their_speed_for_the_samples_that_are_attacked():
    trials = [
        Trial(threat_model="whitebox", attack=PGD(steps=10, restarts=2)),
        Trial(threat_model="blackbox", attack=Square(queries=100)),
    ]
    speeds = {"whitebox": Speed(gradient=0.003, query=0.001), "blackbox": Speed(gradient=0.0, query=0.002)}
    shares = Shares(attacked=0.5, survive=0.2)
    whitebox, blackbox = 20 * 0.003 + 2 * 0.001, 100 * 0.002
    for stops, expected in (
        (True, 200 * (whitebox + blackbox) + 300 * 20 * 0.002),
        (False, 500 * (whitebox + blackbox)),
    ):
        how = {"stops": lambda _, stops=stops: stops}
        assert estimate_seconds(trials, 1000, speeds, shares, **how) == pytest.approx(expected)
        assert estimate_seconds(trials, 1000, speeds, shares, jobs=2, **how) == pytest.approx(expected / 2)


def test_ensembles_go_on_only_with_the_samples_that_survive():
    first = ATTACKS["worst"](8 / 255).attacks[0]
    assert ATTACKS["worst"](8 / 255).passes_if_broken(early_stop=False) == first.passes
    assert ATTACKS["autoattack"](8 / 255).passes_if_broken(early_stop=False) == Passes(gradients=100)
    assert ATTACKS["worst"](8 / 255).passes_if_broken(early_stop=True) == Passes()


def test_the_passes_of_an_attack_are_those_that_it_makes(standard_run, val_data):
    network, data = standard_run.network(), val_data.part(slice(4))
    counted = {"passes": 0}
    network.register_forward_hook(lambda *_: counted.update(passes=counted["passes"] + 1))
    for name in ("fgsm", "pgd", "pgd-margin", "square"):
        attack = ATTACKS[name](0.0)  # breaks no sample, so that it runs to its end
        counted["passes"] = 0
        run_trials(Subject(network=network), data, [])
        before, counted["passes"] = counted["passes"], 0
        run_trials(Subject(network=network), data, [Trial(threat_model="whitebox", attack=attack)])
        around = before + 2  # the judge, before and after
        assert counted["passes"] == attack.passes.gradients + attack.passes.queries + around, name
    assert ATTACKS["worst"](0.0).passes == Passes(gradients=80 + 360, queries=2 + 9 + 1000)


def test_a_full_evaluation_says_first_how_long_it_takes(standard_run, shapes, val_data, tmp_path):
    order: list[object] = []
    evaluate(
        standard_run.path,
        shapes["val"],
        attacks=["fgsm"],
        images=8,
        curve_images=0,
        full=True,
        jobs=1,
        out=tmp_path,
        on_estimate=lambda seconds, _: order.append(seconds),
        on_progress=order.append,
    )
    assert isinstance(order[0], float)
    assert order[0] > 0
    assert len(order) == 2
    trial = Trial(threat_model="whitebox", attack=PGD(steps=50))
    assert measure_seconds(Subject(network=standard_run.network()), val_data, [trial]) > order[0]
