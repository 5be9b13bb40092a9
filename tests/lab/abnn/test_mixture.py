from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from abnn_serve.errors import ConfigError
from abnn_serve.lab.abnn.mixture import MixtureNetwork, MixtureRule

ROBUST = torch.tensor([[4.0, 1.0, 0.0, -1.0], [0.3, 0.2, 0.1, 0.0]])
CLEAN = torch.tensor([[0.0, 9.0, 0.0, 0.0], [0.0, 9.0, 0.0, 0.0]])


def test_the_rule_is_the_formula_of_its_paper():
    rule = MixtureRule(scale=2.0, power=3.0, shift=-0.5, share=0.7)
    h = (ROBUST - ROBUST.mean(dim=1, keepdim=True)) / (ROBUST.var(dim=1, correction=0, keepdim=True) + 1e-5).sqrt()
    u = nn.functional.gelu(h - 0.5)
    expected = (0.3 * CLEAN.softmax(dim=1) + 0.7 * (2.0 * u.abs() ** 3 * u.sign()).softmax(dim=1)).log()
    assert torch.allclose(rule(ROBUST, CLEAN), expected, atol=1e-5)


@given(
    scale=st.floats(0, 16),
    power=st.floats(1, 4),
    shift=st.floats(-2, 2),
    share=st.floats(0.5, 0.999),
    size=st.floats(1e-3, 1e3),
)
def test_answers_are_finite_log_probabilities_for_any_rule(scale, power, shift, share, size):
    rule = MixtureRule(scale=scale, power=power, shift=shift, share=share)
    robust = (size * ROBUST).requires_grad_()
    answer = rule(robust, size * CLEAN)
    assert torch.allclose(answer.exp().sum(dim=1), torch.ones(2), atol=1e-4)
    assert torch.autograd.grad(answer.sum(), robust)[0].isfinite().all()


def test_the_clean_half_decides_only_where_the_robust_half_is_unsure():
    sharp = MixtureRule(scale=4.0, power=4.0, shift=0.0, share=0.7)
    robust = torch.tensor([[4.0, 0.0, 0.0, 0.0], [1.0, 1.05, 1.1, 0.0]])
    clean = torch.tensor([[0.0, 9.0, 0.0, 0.0], [0.0, 9.0, 0.0, 0.0]])
    flat = MixtureRule(scale=0.0, power=1.0, shift=0.0, share=0.7)
    assert sharp(robust, clean).argmax(dim=1).tolist() == [0, 1]
    assert flat(robust, clean).argmax(dim=1).tolist() == [1, 1]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"share": 0.4}, r"share is 0\.4, expected at least 0\.5 and less than 1"),
        ({"share": 1.0}, r"share is 1\.0, expected at least 0\.5"),
        ({"scale": -1.0}, r"scale -1\.0.*expected scale >= 0"),
        ({"power": 0.5}, r"power 0\.5.*power >= 1"),
        ({"shift": float("nan")}, "finite numbers"),
    ],
)
def test_a_rule_out_of_range_is_an_error_with_the_value(values, message):
    with pytest.raises(ConfigError, match=message):
        MixtureRule(**{"scale": 1.0, "power": 1.0, "shift": 0.0, "share": 0.7, **values})


def test_gradients_pass_through_both_halves():
    halves = [nn.Sequential(nn.Flatten(), nn.Linear(12, 4)) for _ in range(2)]
    network = MixtureNetwork(*halves, MixtureRule(scale=1.0, power=1.0, shift=1.0, share=0.6))
    network(torch.rand(3, 3, 2, 2))[:, 0].sum().backward()
    assert all(half[1].weight.grad.abs().sum() > 0 for half in halves)
