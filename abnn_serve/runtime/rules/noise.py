"""Randomised smoothing: answers with a proof in L2, from passes over noisy copies (Cohen, Rosenfeld & Kolter, 2019).

Let F be the classifier, x an image, e Gaussian noise of standard deviation sigma in every value, and p(c) the
probability that F(x + e) = c. The smoothed classifier answers with the most probable class. Let A be that class and p a
lower bound of p(A). If p > 1/2, the smoothed classifier also answers A for every x' with ||x' - x||_2 < R,

    R = sigma * Phi^-1(p),

where Phi^-1 is the quantile function of the standard normal distribution: among all sets that have probability p under
the noise around x, a half space loses most when the noise moves (Neyman & Pearson), and it keeps 1/2 within R.

p is unknown and estimated: `n0` copies choose A, and of `n` other copies k give A. The lower bound is that of Clopper
and Pearson (1934) with error `alpha`: the p at which k or more of n successes have probability alpha. If it is at most
1/2 the rule abstains: nothing is proved. So a certificate is wrong with probability at most alpha.

Without a certificate the answer is the most frequent class of `n0` copies.

The noise is drawn from a key and the sample's bytes: the same sample always gets the same noise, whichever worker
answers, and a client without the key cannot predict it.
"""

from __future__ import annotations

import hashlib
import hmac
import math
from collections.abc import Generator
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from abnn_serve.answer import Noise
from abnn_serve.arrays import batch_slices
from abnn_serve.runtime.rules.base import CHUNK, Certificate, RuleAnswer, Steps, ask

_LEVELS = 255


class NoiseRule:
    """Randomised smoothing with a key.

    Args:
        noise: sigma, n, n0 and alpha.
        key: secret of the operator; with an empty key a client can compute the noise, too.
    """

    certifies = True

    def __init__(self, noise: Noise, key: bytes = b"") -> None:
        self.noise = noise
        self._key = key

    def usual_passes(self, *, certify: bool = False) -> int:
        """As `max_passes`."""
        return self.max_passes(certify=certify)

    def max_passes(self, *, certify: bool = False) -> int:
        """n0, and n more for a certificate; always that many."""
        return self.noise.n0 + (self.noise.n if certify else 0)

    def steps(self, sample: NDArray[np.uint8], *, certify: bool = False) -> Steps:
        """Votes of n0 copies, and with `certify` of n others."""
        generator = _generator(self._key, sample)
        votes = yield from self._vote(sample, self.noise.n0, generator)
        label, passes, certificate = int(votes.argmax()), self.noise.n0, None
        if certify:
            successes = (yield from self._vote(sample, self.noise.n, generator))[label]
            passes += self.noise.n
            radius = certified_radius(int(successes), self.noise)
            certificate = Certificate(
                kind="noise",
                certified=radius > 0,
                passes=passes,
                confidence=1 - self.noise.alpha,
                radius=radius,
                sigma=self.noise.sigma,
            )
        shares = np.maximum(votes / votes.sum(), np.finfo(np.float32).tiny)
        return RuleAnswer(logits=np.log(shares).astype(np.float32), passes=passes, certificate=certificate)

    def _vote(
        self, sample: NDArray[np.uint8], count: int, generator: np.random.Generator
    ) -> Generator[NDArray[np.float32], NDArray[np.float32], NDArray[np.int64]]:
        """How many of `count` noisy copies give each class."""
        sizes = (part.stop - part.start for part in batch_slices(count, CHUNK))
        logits = yield from ask(noisy(sample, self.noise.sigma, size, generator) for size in sizes)
        return np.bincount(logits.argmax(axis=1), minlength=logits.shape[1])


def noisy(sample: NDArray[np.uint8], sigma: float, count: int, generator: np.random.Generator) -> NDArray[np.float32]:
    """Copies of a sample with noise, in units of uint8 pixels and not clipped, float32 (count, [T,] H, W, 3)."""
    noise = generator.standard_normal((count, *sample.shape), dtype=np.float32)
    return noise * np.float32(sigma * _LEVELS) + sample


def certified_radius(successes: int, noise: Noise) -> float:
    """The radius in units of [0, 1] pixels if `successes` of `noise.n` copies give the class; 0 to abstain."""
    bound = lower_bound(successes, noise.n, noise.alpha)
    return noise.sigma * NormalDist().inv_cdf(bound) if bound > 0.5 else 0.0


def lower_bound(successes: int, n: int, alpha: float) -> float:
    """One-sided Clopper-Pearson bound: the p at which `successes` or more of n trials have probability alpha.

    The probability grows with p, so bisection finds p to the precision of a float; the result is its lower end.
    """
    if successes == 0:
        return 0.0
    counts = np.arange(successes, n + 1)
    log_factorials = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, n + 1)))])
    log_ways = log_factorials[n] - log_factorials[counts] - log_factorials[n - counts]
    low, high = 0.0, 1.0
    while low < (middle := (low + high) / 2) < high:
        logs = log_ways + counts * math.log(middle) + (n - counts) * math.log1p(-middle)
        if np.exp(logs).sum() > alpha:
            high = middle
        else:
            low = middle
    return low


def _generator(key: bytes, sample: NDArray[np.uint8]) -> np.random.Generator:
    digest = hmac.digest(key, np.ascontiguousarray(sample).tobytes(), hashlib.sha256)
    return np.random.Generator(np.random.Philox(key=int.from_bytes(digest[:16])))
