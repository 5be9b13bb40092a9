"""Batches and softmax."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from abnn_serve.arrays import batch_slices, softmax


@given(st.integers(0, 1000), st.integers(1, 100))
def test_batches_cover_everything_once(count, size):
    slices = list(batch_slices(count, size))
    assert [index for part in slices for index in range(part.start, part.stop)] == list(range(count))
    assert all(0 < part.stop - part.start <= size for part in slices)


@pytest.mark.parametrize("shape", [(10,), (3, 10), (2, 3, 10)])
def test_softmax_is_positive_sums_to_one_and_keeps_the_order(shape):
    logits = np.random.default_rng(0).normal(scale=50, size=shape).astype(np.float32)
    probabilities = softmax(logits)
    np.testing.assert_allclose(probabilities.sum(axis=-1), 1, rtol=1e-12)
    np.testing.assert_array_equal(probabilities.argmax(axis=-1), logits.argmax(axis=-1))
    np.testing.assert_allclose(np.diff(np.log(probabilities)), np.diff(logits.astype(np.float64)), atol=1e-9)


def test_softmax_of_huge_logits_does_not_overflow():
    np.testing.assert_array_equal(softmax(np.asarray([3e38, 3e38, -3e38], np.float32)), [0.5, 0.5, 0])
