"""Networks of clips: built by name, joined by surgery, attacked, with OUDefend."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from abnn_serve.errors import NetworkError, SurgeryError
from abnn_serve.evaluation.threats import Subject
from abnn_serve.lab.abnn.adaptive_norm import AdaptiveNorm, channel_statistics
from abnn_serve.lab.abnn.network import IMAGENET_MEAN, KINETICS_MEAN, AdaptiveNetwork, PixelNetwork
from abnn_serve.lab.abnn.plan import SurgeryPlan, plan_pairs
from abnn_serve.lab.abnn.surgery import apply_plan
from abnn_serve.lab.networks.oudefend import OUDefend
from abnn_serve.lab.networks.zoo import build_network
from abnn_serve.lab.training.freezing import set_training_mode
from abnn_serve.lab.training.pretrained import load_substitute
from tests.conftest import CLIPS

CLIP = torch.rand(2, 3, 4, 16, 16)


def _network(name: str = "resnet3d7-w4", classes: int = 5) -> PixelNetwork:
    network = PixelNetwork(build_network(name, classes))
    for module in network.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            nn.init.uniform_(module.running_mean, -0.5, 0.5)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    return network.eval()


def _pair(**options) -> AdaptiveNetwork:
    target, substitute = _network(), _network(classes=7)
    network = apply_plan(target, substitute, plan_pairs(target, substitute, CLIP, **options))
    for layer in network.adaptive_layers:
        if layer.form == "linear":
            nn.init.normal_(layer.map, std=0.05)
    return network.eval()


@pytest.mark.parametrize("name", ["resnet3d7-w4", "resnext3d-50-w32", "oudefend:resnet3d7-w4"])
def test_a_network_of_clips_gives_logits(name):
    network = _network(name)
    assert network(CLIP).shape == (2, 5)
    assert network.takes_clips


@pytest.mark.slow
@pytest.mark.parametrize("name", ["r3d_18", "mc3_18", "r2plus1d_18", "s3d", "resnext3d-101"])
def test_torchvisions_and_the_papers_become_adaptive(name):
    side = 224 if name == "s3d" else 64  # S3D pools over 7x7 of a 32nd
    target, substitute, clip = _network(name), _network(), torch.rand(1, 3, 16, side, side)
    network = apply_plan(target, substitute, plan_pairs(target, substitute, clip))
    assert network(clip).shape == (1, 5)
    set_training_mode(network, "norm+head")
    assert sum(isinstance(m, AdaptiveNorm) for m in network.modules()) == len(network.adaptive_layers) > 15


def test_weights_of_clips_load_from_a_file(tmp_path):
    torch.save(build_network("resnet3d7-w4", 400).state_dict(), tmp_path / "kinetics.pt")
    network = build_network(f"resnet3d7-w4@{tmp_path / 'kinetics.pt'}", 5)
    assert network.classifier.out_features == 5


def test_a_resnext_of_another_shape_is_refused():
    with pytest.raises(NetworkError, match="has depth 18 and width 128, expected depth 50, 101, 152"):
        build_network("resnext3d-18", 5)


def test_statistics_are_over_time_and_space_of_each_clip_alone():
    features = torch.randn(3, 5, 4, 6, 6)
    mean, variance = channel_statistics(features)
    assert torch.allclose(mean, features.mean(dim=(2, 3, 4)), atol=1e-6)
    assert torch.allclose(variance, features.var(dim=(2, 3, 4), unbiased=False), atol=1e-6)
    network = _pair()
    with torch.no_grad():
        assert torch.allclose(network(CLIP)[:1], network(CLIP[:1]), atol=1e-5)
        shuffled = network(CLIP[:, :, torch.tensor([2, 0, 3, 1])])
    assert not torch.allclose(shuffled, network(CLIP), atol=1e-4)


def test_the_gradient_runs_through_both_networks_of_clips():
    Subject(network=_pair()).check_whitebox(CLIP)


def test_a_substitute_of_images_needs_a_plan_that_says_so():
    target, images = _network(), _network("resnet8s-w4")
    with pytest.raises(
        SurgeryError, match=r"takes images and the target .* clips; use a substitute that takes clips, or a plan with"
    ):
        plan_pairs(target, images, CLIP)
    plan = plan_pairs(target, images, CLIP, framewise=True)
    silent = SurgeryPlan(pairs=plan.pairs)
    with pytest.raises(SurgeryError, match="use a substitute that takes clips, or a plan with"):
        apply_plan(target, images, silent)
    with pytest.raises(SurgeryError, match="takes clips and the target"):
        plan_pairs(images, target, CLIP[:, :, 0])
    network = apply_plan(target, images, plan)
    for layer in network.adaptive_layers:
        nn.init.normal_(layer.map, std=0.05)
    Subject(network=network.eval()).check_whitebox(CLIP)


def test_weights_for_clips_and_for_images_bring_their_normalisation():
    for name, mean in (("resnet3d7-w4", KINETICS_MEAN), ("resnet8s-w4", IMAGENET_MEAN)):
        config, network = load_substitute(name, CLIPS)
        assert config.mean == mean
        assert network.mean.flatten().tolist() == pytest.approx(list(mean))


def test_framewise_statistics_are_those_over_all_frames():
    target, images = _network(), _network("resnet8s-w4")
    network = apply_plan(target, images, plan_pairs(target, images, CLIP, framewise=True)).eval()
    kept = []
    handle = images.body.features[0][1].register_forward_hook(lambda module, _, out: kept.append(out.clone()))
    with torch.no_grad():
        images(CLIP.transpose(1, 2).flatten(0, 1))
        mean, deviation = network.statistics(CLIP)[0]
    handle.remove()
    features = kept[0].unflatten(0, (2, 4)).transpose(1, 2)
    assert torch.allclose(mean, features.mean(dim=(2, 3, 4)), atol=1e-5)
    assert torch.allclose(deviation, features.var(dim=(2, 3, 4), unbiased=False).sqrt(), atol=1e-4)


def test_networks_without_batch_norm_are_refused_with_the_reason():
    from torchvision.models.video import MViT
    from torchvision.models.video.mvit import MSBlockConfig

    config = MSBlockConfig(1, 16, 16, [3, 3, 3], [], [1, 2, 2], [])
    mvit = PixelNetwork(MViT((16, 16), 4, [config, config], True, False, False, False, num_classes=5))
    with pytest.raises(SurgeryError, match=r"\(MViT\) has no BatchNorm layer \(it normalises with LayerNorm\)"):
        plan_pairs(mvit, _network(), CLIP)


def test_oudefend_begins_as_the_network_it_is_put_in():
    torch.manual_seed(0)
    plain = _network()
    torch.manual_seed(0)
    restored = PixelNetwork(build_network("oudefend:resnet3d7-w4", 5)).eval()
    blocks = [module for module in restored.modules() if isinstance(module, OUDefend)]
    assert len(blocks) == 1
    for odd in (torch.rand(1, 8, 3, 5, 7), torch.rand(1, 8, 1, 1, 1)):
        assert torch.equal(blocks[0](odd), odd)
    assert restored(CLIP).shape == plain(CLIP).shape
    nn.init.normal_(blocks[0].fuse.weight)
    assert not torch.equal(blocks[0](torch.rand(1, 8, 3, 6, 6)), torch.rand(1, 8, 3, 6, 6))
    with pytest.raises(NetworkError, match="no first residual stage"):
        build_network("oudefend:tests.networks:plain", 5)
    assert build_network("oudefend:resnet8s-w4", 5)(torch.rand(1, 3, 32, 32)).shape == (1, 5)
