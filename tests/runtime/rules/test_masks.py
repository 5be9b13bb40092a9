from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from abnn_serve.answer import Masks
from abnn_serve.runtime.rules.base import answer_all
from abnn_serve.runtime.rules.masks import MaskRule, decide
from tests.runtime.rules.networks import Constant, Linear, Network

SIZE = (4, 4)
MASKS = Masks(patch=(1, 1), k=2, fill=(128, 128, 128))
LEVELS = np.array([0, 255], np.uint8)


def _patched(image: np.ndarray) -> np.ndarray:
    """Every image that differs in one pixel, whose channels are 0 or 255, at every place."""
    patches = np.array(list(product(LEVELS, repeat=3)), np.uint8)
    places = list(np.ndindex(*SIZE))
    attacked = np.repeat(image[None], len(places) * len(patches), axis=0)
    for index, ((row, column), patch) in enumerate(product(places, patches)):
        attacked[index, row, column] = patch
    return attacked


def _image(rng: np.random.Generator) -> np.ndarray:
    """An image of one colour with some noise, so that masks do not decide alone."""
    return np.clip(rng.integers(0, 256, 3) + rng.normal(0, 40, (*SIZE, 3)), 0, 255).astype(np.uint8)


@pytest.mark.parametrize("kind", [Linear, Network])
def test_a_certificate_is_never_given_where_any_patch_changes_the_answer(kind):
    rule, broken, certified = MaskRule(MASKS, SIZE), 0, 0
    for seed in range(12):
        rng = np.random.default_rng(seed)
        network = kind((*SIZE, 3), 3, rng)
        for image in (_image(rng) for _ in range(5)):
            (answer,) = answer_all(rule, image[None], network, certify=True)
            changes = {attacked.label for attacked in answer_all(rule, _patched(image), network)} != {answer.label}
            broken += changes
            certified += answer.certificate.certified
            assert not (answer.certificate.certified and changes)
    assert broken > 3
    assert certified > 3


def test_the_answer_is_the_same_with_a_certificate_and_without():
    rng = np.random.default_rng(1)
    rule, network = MaskRule(MASKS, SIZE), Network((*SIZE, 3), 4, rng)
    images = rng.choice(LEVELS, (60, *SIZE, 3))
    pairs = zip(answer_all(rule, images, network), answer_all(rule, images, network, certify=True), strict=True)
    for plain, proved in pairs:
        assert plain.label == proved.label
        np.testing.assert_allclose(plain.logits, proved.logits, atol=1e-6)
        assert plain.votes == proved.votes


def test_every_pass_is_run_once_and_their_number_is_known():
    rng = np.random.default_rng(2)
    rule, network = MaskRule(Masks(patch=(2, 2), k=3, fill=(0, 0, 0)), (8, 8)), Network((8, 8, 3), 4, rng)
    counts = set()
    for image in rng.integers(0, 256, (80, 8, 8, 3), dtype=np.uint8):
        for certify in (False, True):
            network.passes.clear()
            (answer,) = answer_all(rule, image[None], network, certify=certify)
            assert answer.passes == len(network.passes) == len({view.tobytes() for view in network.passes})
            assert rule.usual_passes() <= answer.passes <= rule.max_passes(certify=certify)
            counts.add((certify, answer.passes))
    assert (False, 9) in counts
    assert len(counts) > 2
    assert (True, rule.max_passes(certify=True)) in counts


def test_three_masks_along_each_axis_take_9_passes_and_45_for_a_certificate_at_most():
    for size, patch in (((32, 32), (5, 5)), ((32, 32), (10, 10)), ((224, 224), (32, 32))):
        rule = MaskRule(Masks(patch=patch, k=3, fill=(0, 0, 0)), size)
        assert rule.usual_passes() == 9
        assert rule.max_passes() <= rule.max_passes(certify=True) <= 45


def test_a_pair_of_masks_that_prevents_a_certificate_ends_its_passes():
    rule = MaskRule(Masks(patch=(2, 2), k=5, fill=(0, 0, 0)), (16, 16))
    image = np.full((1, 16, 16, 3), 255, np.uint8)
    smallest, largest = np.unique(rule.views.sum(axis=(1, 2)))[[0, -1]]
    for limit, passes in ((smallest, 25 + 64), (largest, len(rule.views))):

        def dark_is_1(pixels: np.ndarray, limit: int = limit) -> np.ndarray:
            return np.eye(2, dtype=np.float32)[((pixels == 0).all(axis=-1).sum(axis=(1, 2)) > limit) * 1]

        (answer,) = answer_all(rule, image, dark_is_1, certify=True)
        assert answer.passes == passes
        assert answer.certificate.certified == (limit == largest)


@pytest.mark.parametrize("certify", [False, True])
def test_views_that_agree_give_the_mean_of_their_probabilities(certify):
    rule = MaskRule(MASKS, SIZE)
    image = np.zeros((1, *SIZE, 3), np.uint8)
    (answer,) = answer_all(rule, image, Constant(*[2] * 20), certify=certify)
    assert answer.label == 2
    assert answer.votes == (2, 2, 2, 2)
    assert np.exp(answer.logits).sum() == pytest.approx(1)
    assert answer.passes == rule.usual_passes(certify=certify)
    assert (answer.certificate is not None) == certify
    assert not certify or answer.certificate.certified


def test_a_dissenter_that_every_second_mask_confirms_wins_and_another_does_not():
    votes = np.array([0, 0, 0, 1])
    confirmed = np.tile(votes, (4, 1))
    assert decide(votes, np.zeros((4, 4), int)) == 0
    assert decide(votes, confirmed) == 0
    confirmed[3] = 1
    assert decide(votes, confirmed) == 1


def test_an_answer_that_leads_by_less_than_rounding_is_not_certified():
    rule = MaskRule(MASKS, SIZE)
    image = np.zeros((1, *SIZE, 3), np.uint8)
    (answer,) = answer_all(rule, image, lambda pixels: np.tile(np.float32([1, 0.9995]), (len(pixels), 1)), certify=True)
    assert answer.label == 0
    assert not answer.certificate.certified


def test_probabilities_that_rounding_makes_equal_keep_the_answer_on_top():
    rule = MaskRule(MASKS, SIZE)
    logits = np.array([-5, np.float32(1), np.nextafter(np.float32(1), np.float32(2))], np.float32)
    (answer,) = answer_all(rule, np.zeros((1, *SIZE, 3), np.uint8), lambda pixels: np.tile(logits, (len(pixels), 1)))
    assert answer.label == 2


def test_a_mask_hides_the_same_place_of_every_frame_with_the_fill():
    rule = MaskRule(Masks(patch=(1, 1), k=2, fill=(7, 8, 9)), SIZE)
    clip = np.full((3, *SIZE, 3), 200, np.uint8)
    views = rule.hide(clip, np.arange(len(rule.views)))
    assert views.shape == (len(rule.views), 3, *SIZE, 3)
    for view, hidden in zip(views, rule.views, strict=True):
        assert (view[:, hidden] == [7, 8, 9]).all()
        assert (view[:, ~hidden] == 200).all()


def test_answers_do_not_depend_on_the_samples_beside_them():
    rng = np.random.default_rng(3)
    rule, network = MaskRule(MASKS, SIZE), Network((*SIZE, 3), 4, rng)
    images = rng.choice(LEVELS, (100, *SIZE, 3))
    together = answer_all(rule, images, network, certify=True)
    for image, answer in zip(images, together, strict=True):
        (alone,) = answer_all(rule, image[None], network, certify=True)
        assert (alone.label, alone.passes, alone.certificate) == (answer.label, answer.passes, answer.certificate)
