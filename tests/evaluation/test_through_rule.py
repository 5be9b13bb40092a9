"""Attacks through answer rules."""

from __future__ import annotations

import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch

from abnn_serve.answer import Answer, Noise
from abnn_serve.bundle.store import load_bundle
from abnn_serve.card import Accuracy
from abnn_serve.evaluation.certificate_check import check_certificates
from abnn_serve.evaluation.evaluate import evaluate
from abnn_serve.evaluation.outcomes import Trial
from abnn_serve.evaluation.suites import choose_trials
from abnn_serve.evaluation.threats import Subject
from abnn_serve.evaluation.through_rule import MaskedNetwork, NoisyNetwork
from abnn_serve.evaluation.trials import run_trials
from abnn_serve.lab.attacks.roa import Patch
from abnn_serve.lab.training.batches import to_input
from abnn_serve.runtime.predictor import Predictor
from abnn_serve.runtime.rules.masks import MaskRule


@pytest.fixture
def subject(standard_run, masks_bundle):
    return Subject(network=standard_run.network(), answer=masks_bundle.manifest.answer, size=(32, 32))


PATCH = Patch(eps=25 / 1024, height=5, width=5, steps=5)


def test_the_attacked_network_gives_the_answers_of_the_bundle(subject, masks_bundle, val_data):
    predictor = Predictor.open(masks_bundle.path, device="cpu", threads=1)
    images = np.concatenate([val_data.images, np.random.default_rng(0).integers(0, 256, (40, 32, 32, 3), np.uint8)])
    expected = [prediction.top[0].index for prediction in predictor.predict(images)]
    with torch.no_grad():
        assert subject.model(to_input(images)).argmax(dim=1).tolist() == expected


def test_its_gradient_is_that_of_the_mean_log_probability_under_all_masks(subject, masks_bundle, val_data):
    masks = masks_bundle.manifest.answer.masks
    network, rule = subject.network.eval(), MaskRule(masks, (32, 32))
    x = to_input(val_data.images[:3]).requires_grad_()
    (found,) = torch.autograd.grad(MaskedNetwork(network, rule)(x)[:, 0].sum(), x)
    fill = torch.tensor(masks.fill).view(3, 1, 1) / 255
    views = [torch.where(torch.from_numpy(view), fill, x) for view in rule.views[:9]]
    loss = sum(network(view).log_softmax(dim=1)[:, 0].sum() for view in views) / 9
    (expected,) = torch.autograd.grad(loss, x)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-3)


def test_a_patch_is_attacked_and_judged_through_the_rule_and_breaks_no_certificate(subject, val_data):
    data = val_data.spread(24)
    outcome = run_trials(subject, data, [Trial(threat_model="whitebox", attack=PATCH)])
    plain = run_trials(replace(subject, answer=None), data, [Trial(threat_model="whitebox", attack=PATCH)])
    assert outcome.outcomes[0].row.attack == "patch-5x5 t=5"
    changed = (outcome.outcomes[0].images != to_input(data.images).numpy()).any(axis=1)
    assert changed.any(axis=1).sum(axis=1).max() <= 5
    assert changed.any(axis=2).sum(axis=1).max() <= 5
    (check,) = check_certificates(subject, outcome)
    assert check.passed, check.detail
    assert plain.outcomes[0].trial == outcome.outcomes[0].trial


def test_a_broken_certificate_fails_the_check(subject, val_data):
    evaluation = run_trials(subject, val_data.spread(24), [Trial(threat_model="whitebox", attack=PATCH)])
    (outcome,) = evaluation.outcomes
    everything_broken = replace(outcome, is_correct=np.zeros_like(outcome.is_correct))
    certified = check_certificates(subject, replace(evaluation, outcomes=(everything_broken,)))
    assert not certified[0].passed
    larger = replace(outcome, trial=replace(outcome.trial, attack=replace(PATCH, height=6, eps=30 / 1024)))
    assert check_certificates(subject, replace(evaluation, outcomes=(larger,))) == ()


def test_noise_is_attacked_in_expectation_and_judged_by_votes(standard_run, val_data):
    answer = Answer(noise=Noise(sigma=0.1, n=20, n0=10))
    subject = Subject(network=standard_run.network(), answer=answer, size=(32, 32))
    x = to_input(val_data.images[:2])
    attacked = subject.attacked("whitebox")
    assert isinstance(attacked, NoisyNetwork)
    with torch.no_grad():
        assert (attacked(x) != attacked(x)).any()
        torch.testing.assert_close(subject.model(x), subject.model(x))
    assert not subject.is_final("whitebox")
    evaluation = run_trials(subject, val_data.spread(6), choose_trials(subject, quick=True, threats=["whitebox"]))
    assert [outcome.trial.attack.norm for outcome in evaluation.outcomes] == ["L2", "Linf"]
    assert check_certificates(subject, evaluation)[0].passed


def test_a_bundle_with_a_rule_is_evaluated_through_it(masks_bundle, standard_run, shapes, tmp_path):
    copy = shutil.copytree(masks_bundle.path, tmp_path / "masks")
    card = evaluate(copy, shapes["val"], run=standard_run.path, quick=True, images=8, out=tmp_path / "out")
    assert load_bundle(copy).card == card
    names = [(row.threat_model, row.attack) for row in card.attacks]
    assert names == [("whitebox", "patch-5x5 t=40"), ("blackbox", "Square-100"), ("artifact", "PGD-20")]
    checks = {check.name: check.passed for check in card.sanity}
    assert checks["no attack breaks a certificate"]
    assert checks["gradients match finite differences"]
    assert card.attacks[0].accuracy == Accuracy(correct=card.attacks[0].accuracy.correct, n=8)
