from __future__ import annotations

from dataclasses import replace

import onnx
import pytest
import torch

from abnn_serve.errors import ConfigError, TrainingError
from abnn_serve.evaluation.subject import open_subject
from abnn_serve.evaluation.suites import choose_trials
from abnn_serve.evaluation.trials import run_trials
from abnn_serve.export.bundle import export_bundle
from abnn_serve.export.graph import export_graph
from abnn_serve.lab.abnn.network import MixtureNetwork
from abnn_serve.lab.attacks.half import OnHalf
from abnn_serve.lab.attacks.pgd import PGD
from abnn_serve.lab.data.load import load_data
from abnn_serve.lab.training.mix import mix_runs
from abnn_serve.lab.training.train import train
from abnn_serve.lab.training.weights_file import open_run
from abnn_serve.runtime.session import Session
from tests.conftest import SPEC, request_for

EPS = 4 / 255


@pytest.fixture(scope="module")
def robust_run(shapes, tmp_path_factory):
    request = request_for(shapes, recipe="fast-at", epochs=2)
    request = replace(request, recipe=replace(request.recipe, attack_eps=EPS))
    return train(request, tmp_path_factory.mktemp("runs") / "robust")


@pytest.fixture(scope="module")
def mixed(robust_run, abnn_run, val_data, tmp_path_factory):
    rounds = []
    out = tmp_path_factory.mktemp("runs") / "mixed"
    run = mix_runs(robust_run.path, abnn_run.path, out, val_data, keep=0.9, images=60, eps=EPS, on_round=rounds.append)
    return run, rounds


def test_a_mixture_holds_both_halves_and_the_rule_that_was_chosen(mixed, robust_run, abnn_run):
    run, rounds = mixed
    network = run.network()
    assert isinstance(network, MixtureNetwork)
    assert network.rule == rounds[-1].rule == run.config.mixture.rule
    x = torch.rand(4, 3, 32, 32)
    assert torch.equal(network(x), network.rule(robust_run.network()(x), abnn_run.network()(x)))
    assert run.config.init_source == f"{robust_run.path.name} + {abnn_run.path.name}"


def test_each_round_attacks_the_mixture_and_the_last_keeps_what_was_asked(mixed):
    _, rounds = mixed
    assert all(round_.adversarial <= round_.expected for round_ in rounds)
    assert len({round_.rule for round_ in rounds}) == len(rounds)


def test_a_mixture_exports_as_one_graph_whose_logits_are_torchs(mixed, val_data, tmp_path):
    run, _ = mixed
    bundle = export_bundle(run, tmp_path / "mixed", val_data, parity_images=32)
    served = Session(bundle, "cpu").run(val_data.images[:8])
    expected = run.network()(torch.from_numpy(val_data.images[:8]).movedim(-1, 1) / 255).detach().numpy()
    assert abs(served - expected).max() < 1e-4
    reopened = open_run(tmp_path / "mixed")
    assert reopened.config.mixture.rule == run.config.mixture.rule
    white = torch.ones(1, 3, 32, 32)
    torch.testing.assert_close(reopened.network()(white), run.network()(white), rtol=1e-5, atol=1e-5)


def test_white_box_attacks_on_a_mixture_include_its_halves(mixed, val_data):
    run, _ = mixed
    subject = open_subject(run.path).subject
    assert "graybox" in subject.threat_models
    trials = choose_trials(subject, eps=EPS, quick=True, threats=["whitebox", "graybox"])
    on_halves = [trial for trial in trials if isinstance(trial.attack, OnHalf)]
    assert [trial.attack.half for trial in on_halves] == ["robust", "clean"]
    evaluation = run_trials(subject, val_data.spread(20), on_halves)
    assert all(len(outcome.is_correct) == 20 for outcome in evaluation.outcomes)


def test_an_attack_on_a_half_needs_a_mixture(standard_run, val_data):
    attack = OnHalf(attack=PGD(), half="robust")
    with pytest.raises(ConfigError, match="needs a mixture; make one with `abnn mix`"):
        attack(standard_run.network(), torch.rand(1, 3, 32, 32), torch.tensor([0]))


def test_what_cannot_be_mixed_is_refused_with_the_reason(mixed, standard_run, abnn_run, shapes, val_data, tmp_path):
    run, _ = mixed
    with pytest.raises(ConfigError, match="is a mixture itself"):
        mix_runs(run.path, abnn_run.path, tmp_path / "a", val_data)
    with pytest.raises(ConfigError, match="was trained on these images; give held-out images"):
        mix_runs(standard_run.path, abnn_run.path, tmp_path / "a", load_data(shapes["train"], SPEC))
    with pytest.raises(ConfigError, match=r"keep is 1\.2, expected a share"):
        mix_runs(standard_run.path, abnn_run.path, tmp_path / "a", val_data, keep=1.2)
    with pytest.raises(TrainingError, match="already holds a run"):
        mix_runs(standard_run.path, abnn_run.path, run.path, val_data)
    with pytest.raises(ConfigError, match="is a mixture; train its halves"):
        train(request_for(shapes, init=str(run.path), target=None), tmp_path / "b")


def test_a_search_that_ends_without_a_rule_says_what_to_change(standard_run, robust_run, val_data, tmp_path):
    with pytest.raises(TrainingError, match=r"after 0 rounds no rule keeps 97% of the robust half's .* lower --keep"):
        mix_runs(robust_run.path, standard_run.path, tmp_path / "a", val_data, images=20, eps=EPS, rounds=0)


@pytest.mark.slow
def test_a_substitute_that_both_halves_have_is_computed_once(standard_run, abnn_run, shapes, val_data, tmp_path):
    request = request_for(shapes, recipe="probe", init=str(standard_run.path), target=None, epochs=1)
    probe = train(request, tmp_path / "probe")
    run = mix_runs(probe.path, abnn_run.path, tmp_path / "mixed", val_data, keep=0.01, images=10, eps=1 / 255)
    mixed, alone = (export_graph(each.network(), SPEC) for each in (run, abnn_run))
    assert _convolutions(mixed) == _convolutions(alone)


def _convolutions(graph):
    return sum(node.op_type == "Conv" for node in onnx.load_from_string(graph).graph.node)
