from __future__ import annotations

import pytest
import torch
from torch import nn

from abnn_serve.errors import NetworkError
from abnn_serve.lab.abnn.network import PixelNetwork, check_logits
from abnn_serve.lab.networks.zoo import build_network


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("resnet9-w8", 32),
        ("resnet9s-w8", 32),
        ("resnet8s-w8", 32),
        ("resnet9-w8-silu", 32),
        ("resnet9s-w8-silu", 32),
        ("resnet10-w4-silu", 32),
        ("wrn-10-2", 32),
        ("resnet18", 64),
        ("torchvision:mobilenet_v3_small", 64),
        ("timm:test_resnet", 64),
        ("tests.networks:plain", 32),
    ],
)
def test_a_network_by_name_gives_logits_for_its_classes(name, size):
    check_logits(PixelNetwork(build_network(name, 7)), torch.rand(2, 3, size, size), 7)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("resnet81", "no network named 'resnet81', did you mean 'resnet18'"),
        ("timm:resnet_none", "timm has no network 'resnet_none'"),
        ("no.such.module:net", "cannot import 'net' from 'no.such.module'"),
        ("tests.networks:nothing", "cannot import 'nothing' from 'tests.networks'"),
        ("tests.networks:not_a_module", r"returned str, expected a torch\.nn\.Module"),
        ("tests.networks:needs_more", r"tests\.networks:needs_more\(num_classes=7\) failed: .*missing 1 required"),
        ("wrn-30-10", r"depth is 30, expected 6n \+ 4 \(10, 16, 28, \.\.\.\)"),
        ("resnet18@NO_SUCH_TAG", "neither a file nor a weights tag"),
        ("timm:test_resnet@mistyped.pt", "neither a file nor 'pretrained'"),
    ],
)
def test_a_name_that_cannot_be_built_says_why(name, message):
    with pytest.raises(NetworkError, match=message):
        build_network(name, 7)


@pytest.mark.parametrize("name", ["resnet9-w4", "resnet8s-w4", "resnet10-w4"])
def test_silu_takes_the_place_of_every_relu(name):
    smooth, plain = build_network(f"{name}-silu", 3), build_network(name, 3)
    assert not any(isinstance(module, nn.ReLU) for module in smooth.modules())
    assert smooth.state_dict().keys() == plain.state_dict().keys()


def test_weights_come_from_a_local_file(tmp_path):
    saved = build_network("resnet8s-w4", 5)
    torch.save(saved.state_dict(), tmp_path / "w.pt")
    same = build_network(f"resnet8s-w4@{tmp_path / 'w.pt'}", 5)
    other_head = build_network(f"resnet8s-w4@{tmp_path / 'w.pt'}", 9)
    assert torch.equal(same.classifier.weight, saved.classifier.weight)
    assert other_head.classifier.weight.shape == (9, 16)
    assert torch.equal(other_head.features[0][0].weight, saved.features[0][0].weight)


def test_weights_of_another_network_are_refused(tmp_path):
    torch.save(build_network("resnet8s-w4", 5).state_dict(), tmp_path / "w.pt")
    with pytest.raises(NetworkError, match=r"does not fit resnet8s-w8: \d+ tensors of other shapes"):
        build_network(f"resnet8s-w8@{tmp_path / 'w.pt'}", 5)
    with pytest.raises(NetworkError, match=r"does not fit wrn-10-1: \d+ tensors missing"):
        build_network(f"wrn-10-1@{tmp_path / 'w.pt'}", 5)


def test_a_network_of_another_number_of_classes_or_input_is_refused():
    network = PixelNetwork(build_network("tests.networks:plain", 7))
    with pytest.raises(NetworkError, match=r"returned shape \(2, 7\), expected logits \(2, 8\)"):
        check_logits(network, torch.rand(2, 3, 32, 32), 8)
    with pytest.raises(NetworkError, match="fails on an input of shape"):
        check_logits(PixelNetwork(build_network("wrn-10-1", 7)), torch.rand(2, 4, 32, 32), 7)
