from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from abnn_serve.bundle.manifest import Pair
from abnn_serve.errors import SurgeryError
from abnn_serve.lab.abnn.adaptive_norm import AdaptiveNorm
from abnn_serve.lab.abnn.network import PixelNetwork
from abnn_serve.lab.abnn.plan import SurgeryPlan, plan_pairs
from abnn_serve.lab.abnn.surgery import apply_plan
from abnn_serve.lab.networks.zoo import build_network

EXAMPLE = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def _network(name: str, classes: int = 5) -> PixelNetwork:
    return PixelNetwork(build_network(name, classes))


def _plan(**pair: object) -> SurgeryPlan:
    values = {"target": "1", "substitute": "1", "channels": 8, "statistics": 8, **pair}
    return SurgeryPlan(pairs=(Pair(**values),))


def _plain() -> PixelNetwork:
    return _network("tests.networks:plain")


def test_surgery_leaves_both_networks_as_they_were():
    target, substitute = _network("resnet8s-w4"), _network("resnet8s-w8")
    before = [{k: v.clone() for k, v in n.state_dict().items()} for n in (target, substitute)]
    joined = apply_plan(target, substitute, plan_pairs(target, substitute, EXAMPLE))
    joined(EXAMPLE).sum().backward()
    for network, state in zip((target, substitute), before, strict=True):
        assert all(torch.equal(value, state[key]) for key, value in network.state_dict().items())
        assert not any(isinstance(module, AdaptiveNorm) for module in network.modules())
        assert all(parameter.requires_grad for parameter in network.parameters())


@pytest.mark.parametrize("training", [True, False])
def test_the_training_flag_dtype_and_affine_are_kept(training):
    target, substitute = _network("resnet8s-w4").double().train(training), _network("resnet8s-w4").double()
    norm = target.body.get_submodule("features.0.1")
    nn.init.normal_(norm.weight)
    joined = apply_plan(target, substitute, plan_pairs(target, substitute, EXAMPLE.double()))
    layer = joined.adaptive_layers[0]
    assert layer.training is training
    assert joined.substitute.training is False
    assert layer.gamma.dtype == torch.float64
    assert torch.equal(layer.gamma, norm.weight)


def test_the_substitute_stays_frozen_and_in_eval_mode_while_training():
    target, substitute = _network("resnet8s-w4"), _network("resnet8s-w4")
    joined = apply_plan(target, substitute, plan_pairs(target, substitute, EXAMPLE)).train()
    assert not any(module.training for module in joined.substitute.modules())
    assert not any(parameter.requires_grad for parameter in joined.substitute.parameters())


def test_the_gradient_passes_through_the_substitute_and_matches_finite_differences():
    target, substitute = _network("resnet8s-w4").double().eval(), _network("resnet8s-w4").double().eval()
    joined = apply_plan(target, substitute, plan_pairs(target, substitute, EXAMPLE.double())).eval()
    for layer in joined.adaptive_layers:
        nn.init.normal_(layer.map, std=0.3)
    x = torch.rand(1, 3, 32, 32, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(joined(x)[0, 0], x)
    fixed = [(m.detach(), d.detach()) for m, d in joined.statistics(x)]
    (through_target,) = torch.autograd.grad(joined(x, fixed)[0, 0], x)
    assert (gradient - through_target).abs().max() > 1e-6
    step, direction = 1e-6, torch.randn_like(x)
    with torch.no_grad():
        slope = (joined(x + step * direction)[0, 0] - joined(x - step * direction)[0, 0]) / (2 * step)
    torch.testing.assert_close(slope, (gradient * direction).sum(), rtol=1e-3, atol=1e-6)


def test_a_samples_logits_do_not_depend_on_its_neighbours():
    target, substitute = _network("resnet8s-w4").eval(), _network("resnet8s-w4").eval()
    joined = apply_plan(target, substitute, plan_pairs(target, substitute, EXAMPLE)).eval()
    batch = torch.rand(4, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(joined(batch)[2:3], joined(batch[2:3]), rtol=1e-4, atol=1e-5)


def test_a_copy_of_the_joined_network_is_independent_of_it():
    import copy

    target, substitute = _network("resnet8s-w4"), _network("resnet8s-w4")
    joined = apply_plan(target, substitute, plan_pairs(target, substitute, EXAMPLE)).eval()
    twin = copy.deepcopy(joined)
    with torch.no_grad():
        for parameter in joined.parameters():
            parameter.zero_()
        assert twin(EXAMPLE).abs().sum() > 0


def test_calibration_standardises_the_statistics():
    target, substitute = _network("resnet8s-w4"), _network("resnet8s-w4")
    joined = apply_plan(target, substitute, plan_pairs(target, substitute, EXAMPLE)).eval()
    images = torch.rand(64, 3, 32, 32)
    joined.calibrate(images.split(16))
    for layer, (mean, deviation) in zip(joined.adaptive_layers, joined.statistics(images), strict=True):
        code = (torch.cat([mean, deviation], 1) - layer.statistics_center) / layer.statistics_scale
        torch.testing.assert_close(code.mean(0), torch.zeros_like(code[0]), atol=1e-2, rtol=0)
        assert (code.std(0) < 1.01).all()


def test_a_shared_norm_is_paired_once_and_replaced_everywhere():
    target = _network("tests.networks:shared_norm")
    plan = plan_pairs(target, _plain(), EXAMPLE)
    assert len(plan.pairs) == 1
    joined = apply_plan(target, _plain(), plan)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in joined.target.modules())
    assert joined(EXAMPLE).shape == (2, 5)


def test_sync_batch_norm_is_made_plain_first():
    target = PixelNetwork(nn.SyncBatchNorm.convert_sync_batchnorm(build_network("tests.networks:plain", 5))).eval()
    joined = apply_plan(target, target, _plan())
    assert not any(isinstance(module, nn.SyncBatchNorm) for module in joined.modules())
    assert joined.eval()(EXAMPLE).shape == (2, 5)


def test_a_norm_with_its_activation_inside_is_taken_apart():
    timm = pytest.importorskip("timm")
    target = PixelNetwork(timm.create_model("test_resnet", num_classes=5)).eval()
    bodies = nn.Sequential(
        nn.Conv2d(3, 8, 3),
        timm.layers.BatchNormAct2d(8, act_layer=nn.ReLU),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 5),
    )
    norm_act = PixelNetwork(bodies).eval()
    joined = apply_plan(norm_act, norm_act, _plan()).eval()
    joined.adaptive_layers[0].beta.data.fill_(-100.0)
    assert joined(EXAMPLE).std(dim=0).max() == 0  # ReLU after the layer leaves nothing of so low a shift
    assert plan_pairs(target, norm_act, torch.rand(2, 3, 64, 64)).pairs


def test_adain_pairs_equal_widths_and_has_no_parameters_of_its_own():
    target, substitute = _network("resnet8s-w4"), _network("resnet8s-w4")
    plan = plan_pairs(target, substitute, EXAMPLE, form="adain")
    assert all(pair.channels == pair.statistics for pair in plan.pairs)
    joined = apply_plan(target, substitute, plan)
    assert not list(joined.adaptive_layers[0].parameters())


def test_the_conditional_form_starts_as_the_network_that_it_was_put_into():
    target, substitute = _network("resnet8s-w4"), _network("resnet8s-w8")
    for norm in (module for module in target.modules() if isinstance(module, nn.BatchNorm2d)):
        norm.eps, norm.momentum = 1e-3, 0.01
    target.train()(EXAMPLE)
    joined = apply_plan(target.eval(), substitute, plan_pairs(target, substitute, EXAMPLE, form="conditional"))
    torch.testing.assert_close(joined(EXAMPLE), target(EXAMPLE))
    assert {(layer.norm.eps, layer.norm.momentum) for layer in joined.adaptive_layers} == {(1e-3, 0.01)}


def test_the_conditional_form_needs_running_statistics():
    target = _plain()
    target.body[1] = nn.BatchNorm2d(8, track_running_stats=False)
    with pytest.raises(SurgeryError, match="target '1' keeps no running statistics; use the linear form"):
        apply_plan(target, _plain(), replace(_plan(), form="conditional"))


@pytest.mark.parametrize(
    ("pair", "message"),
    [
        ({"target": "9"}, "does not pair the target's layer '1'"),
        ({"substitute": "9"}, "the plan names substitute layer '9', which Sequential does not have"),
        ({"substitute": "0"}, "the plan names substitute layer '0', a Conv2d, expected a BatchNorm"),
        ({"channels": 7}, "target '1' has 8 channels, the plan says 7"),
    ],
)
def test_a_plan_that_does_not_fit_names_the_layer(pair, message):
    with pytest.raises(SurgeryError, match=message):
        apply_plan(_plain(), _plain(), _plan(**pair))


def test_a_plan_that_names_a_target_layer_that_is_not_there_is_refused():
    pairs = (*_plan().pairs, Pair(target="nowhere", substitute="1", channels=8, statistics=8))
    with pytest.raises(SurgeryError, match="the plan names target layer 'nowhere', which Sequential does not have"):
        apply_plan(_plain(), _plain(), SurgeryPlan(pairs=pairs))


def test_a_norm_left_unpaired_is_refused():
    with pytest.raises(
        SurgeryError, match=r"does not pair the target's layer 'features\.1\.1' \(6 BatchNorms have no pair\)"
    ):
        apply_plan(_network("resnet8s-w8"), _plain(), _plan(target="features.0.1"))
