from __future__ import annotations

import pytest
import torch

from abnn_serve.errors import BundleIntegrityError
from abnn_serve.export.graph import export_graph
from abnn_serve.lab.abnn.network import PixelNetwork
from abnn_serve.lab.networks.cifar import ThinStemResNet
from abnn_serve.lab.training.weights_in_graph import leave_to_graph, take_from_graph
from tests.conftest import SPEC


def network():
    torch.manual_seed(3)
    trained = PixelNetwork(ThinStemResNet(10, width=4))
    for module in trained.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.1, 4)
            torch.nn.init.normal_(module.weight)  # of both signs
    return trained.eval()


def test_folded_weights_come_back_from_the_graph():
    state = network().state_dict()
    model = export_graph(network(), SPEC)
    short, names = leave_to_graph(state, model)
    weights = [name for name, value in state.items() if value.dim() == 4]
    assert set(names) == {*weights[1:], "body.classifier.weight"}  # the first also takes the pixels' scale
    assert sum(value.nbytes for value in short.values()) < 0.1 * sum(value.nbytes for value in state.values())
    full = take_from_graph(short, names, model)
    for name, value in state.items():
        torch.testing.assert_close(full[name], value, rtol=2e-6, atol=0.0)


def test_weights_that_the_graph_holds_otherwise_are_kept_whole():
    state = network().state_dict()
    model = export_graph(network(), SPEC)
    name = "body.features.1.0.weight"
    state[name][0, 0, 0, 0] += 1e-4
    short, names = leave_to_graph(state, model)
    assert name not in names
    assert torch.equal(short[name], state[name])


def test_a_channel_of_zeros_comes_back_as_zeros():
    trained = network()
    with torch.no_grad():
        trained.body.features[1][0].weight[2] = 0
    state, model = trained.state_dict(), export_graph(trained, SPEC)
    short, names = leave_to_graph(state, model)
    assert "body.features.1.0.weight" in names
    assert torch.equal(take_from_graph(short, names, model)["body.features.1.0.weight"][2], torch.zeros(4, 3, 3))


def test_a_graph_without_the_weights_is_refused():
    model = export_graph(network(), SPEC)
    short, names = leave_to_graph(network().state_dict(), model)
    with pytest.raises(BundleIntegrityError, match=r"the graph has no weights for 'body\.other\.weight'"):
        take_from_graph(short, [*names, "body.other.weight"], model)
