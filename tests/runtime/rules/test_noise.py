from __future__ import annotations

from statistics import NormalDist

import numpy as np
import pytest

from abnn_serve.answer import Noise
from abnn_serve.runtime.rules.base import answer_all
from abnn_serve.runtime.rules.noise import NoiseRule, certified_radius, lower_bound
from tests.runtime.rules.networks import Linear

SHAPE = (2, 2, 3)
NOISE = Noise(sigma=0.25, n=400, n0=50, alpha=0.01)


# binomtest(successes, n, alternative="greater").proportion_ci(1 - alpha, "exact").low of scipy.stats
SCIPY = [
    (0, 1, 0.05, 0.0),
    (1, 1, 0.05, 0.050000000000000044),
    (1, 10, 0.05, 0.005116196892304599),
    (10, 10, 0.05, 0.7411344491066529),
    (5, 10, 0.05, 0.22244110100812897),
    (50, 100, 0.05, 0.4136217146309117),
    (990, 1000, 0.05, 0.9830968248795311),
    (1, 10, 0.001, 0.00010004502852067852),
    (10, 10, 0.001, 0.5011872336272724),
    (9, 10, 0.001, 0.37627691091117244),
    (99, 100, 0.001, 0.9113731112960425),
    (501, 1000, 0.001, 0.4517643768755039),
    (1000, 1000, 0.001, 0.9931160484208544),
]


@pytest.mark.parametrize(("successes", "n", "alpha", "expected"), SCIPY)
def test_the_lower_bound_is_that_of_clopper_and_pearson(successes, n, alpha, expected):
    assert lower_bound(successes, n, alpha) == pytest.approx(expected, abs=1e-9)


def test_the_rule_abstains_where_half_of_the_probability_is_not_proved():
    assert certified_radius(NOISE.n // 2, NOISE) == 0
    assert certified_radius(NOISE.n, NOISE) == pytest.approx(0.25 * NormalDist().inv_cdf(0.01 ** (1 / NOISE.n)))
    radii = [certified_radius(successes, NOISE) for successes in range(0, NOISE.n + 1, 20)]
    assert radii == sorted(radii)
    rng = np.random.default_rng(0)
    (answer,) = answer_all(
        NoiseRule(NOISE),
        np.zeros((1, *SHAPE), np.uint8),
        lambda pixels: rng.standard_normal((len(pixels), 2)).astype(np.float32),
        certify=True,
    )
    assert not answer.certificate.certified
    assert answer.certificate.radius == 0


def test_a_radius_is_no_more_than_the_true_distance_to_another_class():
    """The smoothed classifier of a linear one has the same boundary, whose distance is known."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (60, *SHAPE), dtype=np.uint8)
    network = Linear(SHAPE, 2, rng)
    network.weight[:, 1] = 0  # so that the sign of the first logit decides
    direction = np.linalg.norm(network.weight[:, 0])
    wrong = certified = 0
    for image, answer in zip(images, answer_all(NoiseRule(NOISE), images, network, certify=True), strict=True):
        (logits,) = network(image[None])
        distance = abs(logits[0]) / direction * (1 if answer.label == logits.argmax() else -1)
        wrong += answer.certificate.certified and answer.certificate.radius > distance
        certified += answer.certificate.certified
    assert certified > 20
    assert wrong <= 2  # expected: 60 x alpha = 0.6


def test_the_passes_are_as_many_as_announced_float32_and_not_clipped():
    network = Linear(SHAPE, 2, np.random.default_rng(0))
    rule = NoiseRule(NOISE)
    for certify, passes in ((False, 50), (True, 450)):
        network.passes.clear()
        (answer,) = answer_all(rule, np.full((1, *SHAPE), 255, np.uint8), network, certify=certify)
        assert answer.passes == len(network.passes) == rule.max_passes(certify=certify) == passes
        assert {view.dtype for view in network.passes} == {np.dtype(np.float32)}
    noise = np.stack(network.passes) - 255
    assert noise.std() == pytest.approx(0.25 * 255, rel=0.05)
    assert noise.mean() == pytest.approx(0, abs=3)


def test_noise_is_repeatable_and_depends_on_the_key_and_on_the_sample():
    image, other = np.zeros((1, *SHAPE), np.uint8), np.ones((1, *SHAPE), np.uint8)

    def drawn(key: bytes, sample: np.ndarray) -> np.ndarray:
        network = Linear(SHAPE, 2, np.random.default_rng(0))
        answer_all(NoiseRule(NOISE, key), sample, network)
        return np.stack(network.passes) - sample

    assert (drawn(b"key", image) == drawn(b"key", image)).all()
    assert np.abs(drawn(b"key", image) - drawn(b"other", image)).max() > 1
    assert np.abs(drawn(b"key", image) - drawn(b"key", other)).max() > 1


def test_the_answer_is_the_class_of_most_copies():
    network = Linear(SHAPE, 3, np.random.default_rng(4))
    (answer,) = answer_all(NoiseRule(NOISE), np.full((1, *SHAPE), 99, np.uint8), network)
    votes = np.bincount([int(network(view[None]).argmax()) for view in list(network.passes)], minlength=3)
    assert answer.label == votes.argmax()
    np.testing.assert_allclose(np.exp(answer.logits), votes / 50, atol=1e-6)
