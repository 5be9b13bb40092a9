"""Tests of significance against published values, enumeration and simulation."""

from __future__ import annotations

import numpy as np
import pytest

from abnn_serve.significance import holm, mcnemar, rank_sum, two_shares


def test_mcnemar_is_the_binomial_test():
    assert mcnemar(5, 15) == pytest.approx(0.0413895, abs=1e-6)
    assert mcnemar(15, 5) == mcnemar(5, 15)
    assert mcnemar(0, 0) == mcnemar(7, 7) == 1
    assert mcnemar(5_100, 4_900) == pytest.approx(mcnemar(5_101, 4_900), abs=0.002)  # exact, then approximate


def test_two_shares_is_fishers_exact_test():
    assert two_shares(3, 4, 1, 4) == pytest.approx(0.4857143)  # Fisher's tea tasting
    assert two_shares(0, 10, 5, 10) == pytest.approx(0.0325077, abs=1e-6)
    assert two_shares(0, 10, 0, 20) == two_shares(1, 1, 0, 0) == two_shares(4, 4, 9, 9) == 1
    small, large = two_shares(4_900, 20_000, 5_100, 20_000), two_shares(4_901, 20_000, 5_101, 20_000)
    assert small == pytest.approx(large, abs=0.002)


def test_rank_sum_agrees_with_permutations():
    first, second = [6, 9, 4, 1], [2, 5, 9, 4]
    values = np.repeat([0, 1, 2, 3] * 2, first + second)
    rng = np.random.default_rng(1)
    ranks = np.array([(values < v).sum() + ((values == v).sum() + 1) / 2 for v in values])
    observed = abs(ranks[:20].sum() - ranks.mean() * 20)
    drawn = np.array([abs(rng.permutation(ranks)[:20].sum() - ranks.mean() * 20) for _ in range(4000)])
    assert rank_sum(first, second) == pytest.approx((drawn >= observed - 1e-9).mean(), abs=0.01)
    assert rank_sum([3, 0], [9, 0]) == rank_sum([], []) == rank_sum([0, 0], [5, 6]) == 1


def test_many_tests_are_adjusted_for_their_number():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([]) == []
    rng = np.random.default_rng(2)
    false = sum(min(holm(rng.uniform(size=20).tolist())) < 0.05 for _ in range(1000))
    assert false < 75  # 50 expected
