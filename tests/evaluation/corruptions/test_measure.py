from __future__ import annotations

import json
import shutil

import numpy as np
import pytest

from abnn_serve import evaluate
from abnn_serve.bundle.store import load_bundle
from abnn_serve.card import RobustnessCard
from abnn_serve.codec import from_json
from abnn_serve.errors import ConfigError
from abnn_serve.evaluation.corruptions.constants import CORRUPTIONS
from abnn_serve.evaluation.corruptions.corrupt import corrupt
from abnn_serve.evaluation.corruptions.measure import measure_corruptions
from abnn_serve.evaluation.threats import Subject
from abnn_serve.lab.abnn.network import ServedNetwork, torch_logits


def test_the_figures_are_accuracies_of_the_corrupted_images(standard_run, val_data):
    network, data = standard_run.network(), val_data.part(slice(16))
    measured = measure_corruptions(Subject(network=network, twin=network), data)
    assert [r.severity for r in measured.results[:6]] == [1, 2, 3, 4, 5, 1]
    assert list(dict.fromkeys(r.corruption for r in measured.results)) == list(CORRUPTIONS)
    chosen = next(r for r in measured.results if (r.corruption, r.severity) == ("fog", 4))
    logits = torch_logits(ServedNetwork(network).eval(), corrupt(data.images, "fog", 4))
    assert chosen.accuracy.correct == (logits.argmax(axis=1) == data.labels).sum()
    assert chosen.twin == chosen.accuracy
    assert measured.mce == pytest.approx(1)
    assert measured.mean == pytest.approx(np.mean([r.accuracy.value for r in measured.results]), abs=1e-4)
    low, high = measured.interval
    assert low <= measured.mean <= high


def test_a_bundle_s_card_gets_its_corruptions_and_keeps_its_attacks(bundle, shapes, tmp_path):
    copy, out = tmp_path / "shapes", tmp_path / "out"
    shutil.copytree(bundle.path, copy)
    attacked = evaluate(copy, shapes["val"], attacks=["square"], quick=True, images=4, out=out)
    assert any("Corruptions, rotations" in limit for limit in attacked.limits)
    seen: list[tuple[str, int]] = []
    options = {"attacks": ["none"], "corruptions": True, "images": 8, "out": out}
    card = evaluate(copy, shapes["val"], **options, on_corruption=lambda *at: seen.append(at))
    assert seen == [(name, number) for number, name in enumerate(CORRUPTIONS, start=1)]
    assert load_bundle(copy).card == card
    assert card.corruptions.constants == "CIFAR-10-C"
    assert card.corruptions.mce is None
    assert any("Rotations, larger budgets" in limit for limit in card.limits)
    assert not any("Corruptions, rotations" in limit for limit in card.limits)
    assert card.attacks == attacked.attacks
    assert {row.attack for row in card.attacks} == {"Square-100"}
    assert (out / "corruptions.png").read_bytes().startswith(b"\x89PNG")
    value = json.loads((out / "card.json").read_text())
    assert from_json(RobustnessCard, value, "card", ConfigError) == card
    assert len(list((out / "batches").glob("*-corruption.npy"))) == len(CORRUPTIONS)
    assert evaluate(copy, shapes["val"], **options) == card


def test_no_attack_and_no_corruption_is_nothing_to_measure(bundle, shapes):
    with pytest.raises(ConfigError, match="nothing to measure: attack 'none' needs --corruptions"):
        evaluate(bundle.path, shapes["val"], attacks=["none"])
