from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from abnn_serve.errors import ConfigError
from abnn_serve.lab.abnn.mixture import MixtureNetwork, MixtureRule
from abnn_serve.lab.training.batches import to_input
from abnn_serve.lab.training.features import FeatureTap, dissimilarity
from abnn_serve.lab.training.train import train
from tests.conftest import request_for


def test_the_distance_is_zero_for_features_that_find_the_same_images_alike():
    features = torch.randn(8, 5)
    rotation = torch.linalg.qr(torch.randn(5, 5))[0]
    assert dissimilarity(features, 3 * features @ rotation) < 1e-10
    assert dissimilarity(features, torch.cat([features, torch.zeros(8, 2)], dim=1)) < 1e-10
    assert 0.1 < dissimilarity(features, torch.randn(8, 7)) <= 4


def test_the_distance_is_that_of_its_definition():
    one, other = torch.tensor([[1.0, 0.0], [0.0, 2.0]]), torch.tensor([[1.0], [1.0]])
    root = 2**-0.5  # rows (1, 0) and (0, 1) against (root, root) twice
    assert float(dissimilarity(one, other)) == pytest.approx((1 - root) ** 2 + root**2)


@pytest.mark.parametrize("name", ["standard_run", "abnn_run"])
def test_features_are_what_the_classifier_receives(name, request, val_data):
    network = request.getfixturevalue(name).network()
    tap = FeatureTap(network)
    logits = network(to_input(val_data.images[:4]))
    body = network.target.body if name == "abnn_run" else network.body
    assert torch.allclose(body.classifier(tap.features) / 8, logits, atol=1e-6)


def test_a_network_learns_from_features_of_a_teacher_with_other_classes(shapes, standard_run, tmp_path):
    plain = request_for(shapes, "fast-at", epochs=1)
    weighted = replace(plain.recipe, feature_weight=20.0)
    runs = [train(plain, tmp_path / "plain")]
    for source in (str(standard_run.path), "resnet8s-w32"):
        runs.append(train(replace(plain, recipe=weighted, teacher=source), tmp_path / f"taught-{len(runs)}"))
    weights = [run.network().state_dict()["body.features.0.0.weight"] for run in runs]
    assert not torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[1], weights[2])


def test_a_mixture_is_refused_as_a_teacher_of_features(standard_run):
    network = standard_run.network()
    mixture = MixtureNetwork(network, network, MixtureRule(scale=1.0, power=1.0, shift=0.0, share=0.5))
    with pytest.raises(ConfigError, match="give one of its halves as the teacher"):
        FeatureTap(mixture)
