from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from abnn_serve.errors import ConfigError
from abnn_serve.evaluation.detached import DetachedStatistics
from abnn_serve.evaluation.outcomes import Trial
from abnn_serve.evaluation.served import ServedModel, to_uint8
from abnn_serve.evaluation.subject import open_subject
from abnn_serve.evaluation.suites import ATTACKS, choose_trials
from abnn_serve.evaluation.threats import Subject
from abnn_serve.evaluation.trials import run_trials
from abnn_serve.lab.abnn.network import AdaptiveNetwork
from abnn_serve.lab.attacks.base import Attack
from abnn_serve.lab.attacks.pgd import FGSM, PGD
from abnn_serve.lab.attacks.square import Square
from abnn_serve.lab.training.batches import to_input


@pytest.fixture
def subject(abnn_run, standard_run):
    return Subject(network=abnn_run.network(), twin=standard_run.network(), probe=standard_run.network())


def test_the_graybox_model_answers_as_the_network_does_and_has_another_gradient(abnn_run, val_data):
    network = abnn_run.network()
    for layer in network.adaptive_layers:
        torch.nn.init.normal_(layer.map, std=0.2)
    x = to_input(val_data.images[:4]).requires_grad_()
    torch.testing.assert_close(DetachedStatistics(network)(x), network(x))
    (gray,) = torch.autograd.grad(DetachedStatistics(network)(x).square().sum(), x)
    (white,) = torch.autograd.grad(network(x).square().sum(), x)
    assert (gray - white).abs().max() > 0.01 * white.abs().max()


def test_a_detached_substitute_is_refused_as_whitebox(abnn_run, val_data):
    network = abnn_run.network()
    for layer in network.adaptive_layers:
        torch.nn.init.normal_(layer.map, std=0.2)

    class Detached(AdaptiveNetwork):
        def statistics(self, x: Tensor):
            return [(mean.detach(), deviation.detach()) for mean, deviation in super().statistics(x)]

    trials = [Trial(threat_model="whitebox", attack=FGSM())]
    run_trials(Subject(network=network), val_data.part(slice(4)), trials)
    network.__class__ = Detached
    with pytest.raises(ConfigError, match=r"not a white-box evaluation: the gradient differs by .*detached"):
        run_trials(Subject(network=network), val_data.part(slice(4)), trials)


def test_every_threat_model_is_judged_on_the_defended_network(subject, val_data):
    trials = [Trial(threat_model=threat, attack=PGD(eps=0.2, steps=3)) for threat in subject.threat_models]
    evaluation = run_trials(subject, val_data, trials)
    assert [o.trial.threat_model for o in evaluation.outcomes] == [
        "whitebox",
        "graybox",
        "transfer",
        "substitute-transfer",
    ]
    for outcome in evaluation.outcomes:
        assert not (outcome.is_correct & ~evaluation.clean).any()
        with torch.no_grad():
            answers = subject.network(torch.from_numpy(outcome.images)).argmax(dim=1).numpy()
        np.testing.assert_array_equal(outcome.is_correct, answers == val_data.labels)
        assert np.abs(outcome.images - to_input(val_data.images).numpy()).max() <= 0.2 + 1e-6
    assert evaluation.outcomes[0].is_correct.sum() < evaluation.clean.sum()


def test_the_worst_case_of_a_threat_model_is_over_its_trials_for_each_sample(subject, val_data):
    trials = [Trial(threat_model="whitebox", attack=FGSM(eps=0.05), seed=seed) for seed in (0, 1)]
    trials.append(Trial(threat_model="whitebox", attack=Square(eps=0.05, queries=30)))
    evaluation = run_trials(subject, val_data, trials)
    both = np.logical_and.reduce([outcome.is_correct for outcome in evaluation.outcomes])
    assert evaluation.worst["whitebox"].correct == both.sum()
    assert evaluation.worst["whitebox"].correct <= min(outcome.row.accuracy.correct for outcome in evaluation.outcomes)


def test_what_an_attack_returns_outside_its_budget_is_put_back(subject, val_data):
    class Cheat(FGSM):
        def perturb(self, model, x, y, generator, *, early_stop):
            return x + 0.5

    evaluation = run_trials(subject, val_data.part(slice(8)), [Trial(threat_model="whitebox", attack=Cheat(eps=0.01))])
    change = evaluation.outcomes[0].images - to_input(val_data.images[:8]).numpy()
    assert 0 < np.abs(change).max() <= 0.02 + 1e-6


def test_served_images_are_rounded_within_the_budget(bundle, abnn_run, val_data):
    opened = open_subject(bundle.path, run=abnn_run.path)
    trials = [
        Trial(threat_model=threat, attack=attack)
        for threat in ("artifact", "blackbox")
        for attack in (Square(eps=8.5 / 255, queries=10), PGD(eps=0.5, norm="L2", steps=3))[
            : 2 if threat == "artifact" else 1
        ]
    ]
    evaluation = run_trials(opened.subject, val_data.part(slice(16)), trials)
    clean = val_data.images[:16].astype(int)
    for outcome in evaluation.outcomes:
        levels = outcome.images * 255
        np.testing.assert_allclose(levels, levels.round(), atol=1e-3)
        change = to_uint8(torch.from_numpy(outcome.images)).astype(int) - clean
        if outcome.trial.attack.norm == "Linf":
            assert np.abs(change).max() <= 8
        else:
            assert np.sqrt((change.astype(float) ** 2).sum(axis=(1, 2, 3))).max() / 255 <= 0.5 + 1e-6
        answers = opened.subject.served(to_uint8(torch.from_numpy(outcome.images))).argmax(axis=1)
        np.testing.assert_array_equal(outcome.is_correct, answers == val_data.labels[:16])


def test_queries_stay_whole_steps_so_that_a_larger_budget_never_leaves_more(bundle, val_data):
    subject = open_subject(bundle.path).subject
    left = []
    for eps in (7 / 255, 7.9 / 255, 8 / 255):
        trial = Trial(threat_model="blackbox", attack=Square(eps=eps, queries=60))
        left.append(run_trials(subject, val_data, [trial]).worst["blackbox"].correct)
    assert left[0] == left[1] >= left[2]
    assert left[0] < run_trials(subject, val_data, []).clean.sum()


@pytest.mark.gpu
def test_what_is_served_answers_where_the_attack_runs(bundle, abnn_run, val_data):
    subject = open_subject(bundle.path, run=abnn_run.path).subject
    trials = [Trial(threat_model="blackbox", attack=Square(queries=5)), Trial(threat_model="artifact", attack=FGSM())]
    on_cpu, on_gpu = (run_trials(subject, val_data.part(slice(8)), trials, device=device) for device in ("cpu", "cuda"))
    np.testing.assert_array_equal(on_cpu.clean, on_gpu.clean)


def test_a_bundles_own_weights_give_the_gradients_of_its_run(bundle, older_bundle, abnn_run, val_data):
    own, given, without = (
        open_subject(path, run=run).subject
        for path, run in ((bundle.path, None), (bundle.path, abnn_run.path), (older_bundle.path, None))
    )
    assert without.threat_models == ("blackbox",)
    assert own.threat_models == given.threat_models == ("whitebox", "graybox", "blackbox", "artifact")
    trials = [Trial(threat_model="whitebox", attack=PGD(steps=3))]
    images = [run_trials(subject, val_data.part(slice(8)), trials).outcomes[0].images for subject in (own, given)]
    assert np.abs(images[0] - images[1]).mean() < 1e-3  # rounding turns the sign of a few gradients


def test_an_attack_without_gradients_to_follow_is_left_out_or_refused(bundle, older_bundle, abnn_run):
    subject = open_subject(bundle.path, run=abnn_run.path).subject
    assert "blackbox" not in {trial.threat_model for trial in choose_trials(subject, attacks=["pgd"])}
    assert "blackbox" in {trial.threat_model for trial in choose_trials(subject, attacks=["square"])}
    for held, threats in ((subject, ["blackbox"]), (open_subject(older_bundle.path).subject, [])):
        with pytest.raises(
            ConfigError, match="attack 'pgd' needs gradients, which blackbox does not give; choose square"
        ):
            choose_trials(held, attacks=["pgd"], threats=threats)


def test_a_served_model_answers_as_the_network_does(bundle, abnn_run, val_data):
    served = open_subject(bundle.path, run=abnn_run.path).subject.served
    x = to_input(val_data.images[:5])
    with torch.no_grad():
        torch.testing.assert_close(ServedModel(served)(x), abnn_run.network()(x), atol=1e-4, rtol=0)


def test_a_killed_evaluation_goes_on_where_it_was(subject, val_data, tmp_path, monkeypatch):
    monkeypatch.setattr("abnn_serve.evaluation.trials._BATCH", 20)
    trials = [Trial(threat_model="whitebox", attack=PGD(steps=2), seed=seed) for seed in (0, 1)]
    uninterrupted = run_trials(subject, val_data, trials)
    calls: list[int] = []
    run = Attack.__call__

    def counted(self, *args, **options):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return run(self, *args, **options)

    monkeypatch.setattr(Attack, "__call__", counted)
    with pytest.raises(KeyboardInterrupt):
        run_trials(subject, val_data, trials, store=tmp_path)
    assert len(list(tmp_path.glob("*.npz"))) == 2
    resumed = run_trials(subject, val_data, trials, store=tmp_path)
    assert len(calls) == 3 + 2 * 4 - 2
    for first, second in zip(uninterrupted.outcomes, resumed.outcomes, strict=True):
        np.testing.assert_array_equal(first.is_correct, second.is_correct)
        np.testing.assert_array_equal(first.images, second.images)
    other = run_trials(subject, val_data, [replace(trials[0], seed=5)], store=tmp_path)
    assert len(calls) == 3 + 2 * 4 - 2 + 4
    assert other.outcomes[0].trial.seed == 5


def test_an_unavailable_threat_model_names_the_missing_option(standard_run, val_data):
    subject = Subject(network=standard_run.network())
    for threat, hint in (
        ("graybox", "a network with a substitute"),
        ("transfer", "--twin RUN"),
        ("blackbox", "give an exported bundle"),
    ):
        with pytest.raises(ConfigError, match=f"'{threat}' .* is unavailable: .*{hint}"):
            run_trials(subject, val_data, [Trial(threat_model=threat, attack=FGSM())])
    assert subject.threat_models == ("whitebox",)


def test_a_run_that_is_not_the_bundles_is_refused(bundle, standard_run):
    with pytest.raises(ConfigError, match=r"/shapes was not exported from .*/standard: their logits"):
        open_subject(bundle.path, run=standard_run.path)


def test_unknown_names_list_what_there_is(subject):
    with pytest.raises(ConfigError, match="no attack named 'cw', expected one of fgsm, pgd"):
        choose_trials(subject, attacks=["cw"])
    with pytest.raises(ConfigError, match="no threat model named 'insider', expected one of whitebox"):
        choose_trials(subject, threats=["insider"])
    assert {trial.threat_model for trial in choose_trials(subject)} == set(subject.threat_models)


def test_autoattack_can_be_added_to_the_usual_trials(subject):
    *usual, last = choose_trials(subject, quick=True, autoattack=True)
    assert usual == choose_trials(subject, quick=True)
    assert (last.threat_model, last.attack.name) == ("whitebox", "AutoAttack")


@pytest.mark.slow
def test_autoattack_takes_few_classes_and_any_layout():
    pytest.importorskip("pyautoattack", reason="needs the extra attacks")
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 8, 3, stride=2), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 49, 4))
    network = network.to(memory_format=torch.channels_last)
    x = torch.rand(2, 3, 16, 16).contiguous(memory_format=torch.channels_last)
    y = network(x).argmax(dim=1)
    x_adv = ATTACKS["autoattack"](0.02)(network, x, y)
    assert 0 < (x_adv - x).abs().max() <= 0.02 + 1e-6


def test_networks_are_attacked_in_the_fastest_layout_of_their_convolutions(subject):
    subject.move("cpu")
    weights = [weight for weight in subject.network.parameters() if weight.dim() == 4]
    assert weights
    assert all(weight.is_contiguous(memory_format=torch.channels_last) for weight in weights)


def test_autoattack_runs_and_keeps_to_its_budget(subject, val_data):
    pytest.importorskip("pyautoattack", reason="needs the extra attacks")
    data = val_data.part(slice(4))
    evaluation = run_trials(subject, data, [Trial(threat_model="whitebox", attack=ATTACKS["autoattack"](0.3))])
    assert np.abs(evaluation.outcomes[0].images - to_input(data.images).numpy()).max() <= 0.3 + 1e-6
    assert (
        evaluation.outcomes[0].is_correct.sum()
        <= run_trials(subject, data, [Trial(threat_model="whitebox", attack=FGSM(eps=0.3))])
        .outcomes[0]
        .is_correct.sum()
    )
