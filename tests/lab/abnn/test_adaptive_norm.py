from __future__ import annotations

import pytest
import torch

from abnn_serve.lab.abnn.adaptive_norm import EPS, AdaptiveNorm, StatisticsTap, channel_statistics


@pytest.mark.parametrize("shape", [(3, 5, 7), (3, 5, 6, 7), (3, 5, 4, 6, 7)])
def test_statistics_are_those_of_each_sample_over_its_spatial_axes(shape):
    x = torch.randn(shape)
    mean, variance = channel_statistics(x)
    axes = tuple(range(2, x.dim()))
    torch.testing.assert_close(mean, x.mean(dim=axes))
    torch.testing.assert_close(variance, x.var(dim=axes, correction=0))


def test_adain_form_is_the_equation():
    z, mean, deviation = torch.randn(2, 4, 5, 5), torch.randn(2, 4), torch.rand(2, 4)
    layer = AdaptiveNorm(4, 4, form="adain")
    layer.style = (mean, deviation)
    normal = (z - z.mean((2, 3), keepdim=True)) / (z.var((2, 3), correction=0, keepdim=True) + EPS).sqrt()
    torch.testing.assert_close(layer(z), deviation[..., None, None] * normal + mean[..., None, None])


def test_linear_form_maps_standardised_statistics_beside_a_static_part():
    layer = AdaptiveNorm(4, 3)
    torch.nn.init.normal_(layer.map)
    layer.statistics_center.normal_()
    layer.statistics_scale.uniform_(0.5, 2)
    layer.gamma.data.normal_()
    layer.beta.data.normal_()
    mean, deviation, z = torch.randn(2, 3), torch.rand(2, 3), torch.randn(2, 4, 5, 5)
    layer.style = (mean, deviation)
    code = (torch.cat([mean, deviation], 1) - layer.statistics_center) / layer.statistics_scale
    change = code @ layer.map.T
    gamma, beta = layer.gamma + change[:, :4], layer.beta + change[:, 4:]
    normal = torch.nn.functional.instance_norm(z, eps=EPS)
    torch.testing.assert_close(layer(z), gamma[..., None, None] * normal + beta[..., None, None], rtol=1e-4, atol=1e-5)


def test_a_map_of_bounded_rank_is_a_product_of_two_and_a_full_one_where_that_is_no_larger():
    layer = AdaptiveNorm(8, 6, rank=3)
    torch.nn.init.normal_(layer.map)
    mean, deviation = torch.randn(2, 6), torch.rand(2, 6)
    full = AdaptiveNorm(8, 6, rank=12)
    assert full.rank is None
    full.map.data = layer.map.data @ layer.down.data
    for value, expected in zip(layer.modulation(mean, deviation), full.modulation(mean, deviation), strict=True):
        torch.testing.assert_close(value, expected)


def test_a_new_linear_layer_is_instance_normalisation():
    layer = AdaptiveNorm(4, 3)
    layer.style = (torch.randn(2, 3), torch.rand(2, 3))
    z = torch.randn(2, 4, 6, 6)
    torch.testing.assert_close(layer(z), torch.nn.functional.instance_norm(z, eps=EPS), rtol=1e-4, atol=1e-5)


def test_the_conditional_form_is_batch_norm_in_training_and_its_running_statistics_after():
    layer = AdaptiveNorm(4, 3, form="conditional")
    torch.nn.init.normal_(layer.map)
    style = torch.randn(8, 3), torch.rand(8, 3)
    gamma, beta = (value[..., None, None] for value in layer.modulation(*style))
    plain = torch.nn.BatchNorm2d(4, affine=False)
    z = torch.randn(8, 4, 6, 6) * 3 + 1
    for training in (True, False):
        layer.train(training).style = style
        torch.testing.assert_close(layer(z), gamma * plain.train(training)(z) + beta)


def test_the_conditional_form_answers_alike_alone_and_in_a_batch():
    layer = AdaptiveNorm(4, 3, form="conditional")
    torch.nn.init.normal_(layer.map)
    style, z = (torch.randn(8, 3), torch.rand(8, 3)), torch.randn(8, 4, 6, 6)
    layer.train().style = style
    layer(z)
    together = layer.eval()(z)
    layer.style = tuple(value[:1] for value in style)
    torch.testing.assert_close(layer(z[:1]), together[:1])


def test_a_constant_map_gives_finite_values_and_gradients():
    layer = AdaptiveNorm(2, 2)
    layer.style = (torch.zeros(1, 2), torch.zeros(1, 2))
    z = torch.full((1, 2, 4, 4), 3.0, requires_grad=True)
    layer(z).sum().backward()
    assert torch.isfinite(z.grad).all()


def test_half_precision_features_keep_their_dtype_and_statistics_are_float32():
    tap, layer = StatisticsTap(), AdaptiveNorm(4, 4)
    x = (torch.randn(2, 4, 8, 8) * 1e4).half()
    assert tap(x) is x
    assert tap.statistics[0].dtype == torch.float32
    assert torch.isfinite(tap.statistics[1]).all()
    layer.style = tap.statistics
    assert layer(x).dtype == torch.float16


def test_a_layer_without_statistics_says_how_it_is_meant_to_be_called():
    with pytest.raises(RuntimeError, match="call the AdaptiveNetwork, not its target"):
        AdaptiveNorm(2, 2)(torch.randn(1, 2, 3, 3))
