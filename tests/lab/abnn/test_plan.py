from __future__ import annotations

import json

import pytest
import torch
from torch import nn

from abnn_serve.bundle.manifest import Pair
from abnn_serve.codec import from_json, to_json
from abnn_serve.errors import SurgeryError
from abnn_serve.lab.abnn.network import PixelNetwork
from abnn_serve.lab.abnn.plan import SurgeryPlan, plan_pairs
from abnn_serve.lab.networks.zoo import build_network

EXAMPLE = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def _network(name: str, classes: int = 5) -> PixelNetwork:
    return PixelNetwork(build_network(name, classes))


def _plain() -> PixelNetwork:
    return _network("tests.networks:plain")


def test_every_norm_of_the_target_is_paired_at_its_relative_depth():
    target, substitute = _network("resnet9s-w4"), _network("resnet8s-w8")
    plan = plan_pairs(target, substitute, EXAMPLE)
    assert len(plan.pairs) == 8
    assert (plan.pairs[0].target, plan.pairs[0].substitute) == ("features.0.1", "features.0.1")
    assert (plan.pairs[-1].target, plan.pairs[-1].substitute) == ("features.7.body.1.1", "features.6.body.1.1")
    order = [plan.pairs[i].substitute for i in range(8)]
    assert order == sorted(order)


def test_a_plan_reads_as_a_table_and_survives_json():
    plan = plan_pairs(_network("resnet8s-w4"), _network("resnet8s-w8"), EXAMPLE)
    assert str(plan).splitlines()[1].split() == ["features.0.1", "4", "features.0.1", "8"]
    again = from_json(SurgeryPlan, json.loads(json.dumps(to_json(plan))), "plan", SurgeryError)
    assert again == plan


@pytest.mark.parametrize("side", ["target", "substitute"])
def test_a_network_without_batch_norm_is_refused_by_side(side):
    networks = {"target": _plain(), "substitute": _plain(), side: _network("tests.networks:without_batch_norm")}
    with pytest.raises(SurgeryError, match=rf"the {side} \(Sequential\) has no BatchNorm layer"):
        plan_pairs(networks["target"], networks["substitute"], EXAMPLE)


def test_widths_that_cannot_be_paired_name_both_sides():
    with pytest.raises(
        SurgeryError,
        match=r"target 'features\.0\.1' has 4 channels and no BatchNorm of the substitute has as many \(it has \[8\]\)",
    ):
        plan_pairs(_network("resnet8s-w4"), _plain(), EXAMPLE, form="adain")
    with pytest.raises(
        SurgeryError, match=r"target '1' has 8 channels and substitute '1' has 9: the adain form needs equal widths"
    ):
        SurgeryPlan(pairs=(Pair(target="1", substitute="1", channels=8, statistics=9),), form="adain")


def test_a_plan_that_names_a_layer_twice_or_none_is_refused():
    with pytest.raises(SurgeryError, match="names '1' of the target more than once"):
        SurgeryPlan(pairs=(Pair(target="1", substitute="1", channels=8, statistics=8),) * 2)
    with pytest.raises(SurgeryError, match="the plan has no pairs"):
        SurgeryPlan(pairs=())


def test_a_map_of_one_value_for_each_channel_is_refused_where_its_own_statistics_would_erase_it():
    with pytest.raises(SurgeryError, match=r"normalises one value for each channel of an input of \(32, 32\)"):
        plan_pairs(_network("resnet18"), _plain(), EXAMPLE)
    assert plan_pairs(_network("resnet18"), _plain(), EXAMPLE, form="conditional").pairs


@pytest.mark.parametrize(
    ("widths", "rank", "expected"),
    [
        ((512, 512), None, 64),
        ((512, 128), None, None),
        ((128, 512), None, None),
        ((256, 256), None, None),
        ((512, 512), 0, None),
        ((512, 512), 100, 100),
        ((8, 8), 3, 3),
    ],
)
def test_maps_get_a_rank_by_default_only_where_both_layers_are_wide(widths, rank, expected):
    target, substitute = (PixelNetwork(nn.Sequential(nn.Conv2d(3, w, 1), nn.BatchNorm2d(w))) for w in widths)
    for form in ("linear", "conditional"):
        plan = plan_pairs(target, substitute, EXAMPLE, form=form, rank=rank)
        assert plan.rank == expected
        assert str(plan).splitlines()[-1] == f"adaptive maps: {f'rank {expected}' if expected else 'full rank'}"


def test_the_adain_form_has_no_rank_by_default():
    wide = PixelNetwork(nn.Sequential(nn.Conv2d(3, 512, 1), nn.BatchNorm2d(512)))
    plan = plan_pairs(wide, wide, EXAMPLE, form="adain")
    assert plan.rank is None
    assert "adaptive maps" not in str(plan)


@pytest.mark.parametrize(("target", "substitute"), [("resnet10-w24", "resnet8s-w32"), ("resnet10-w16", "resnet8s-w32")])
def test_the_networks_of_the_models_keep_full_maps(target, substitute):
    assert plan_pairs(_network(target), _network(substitute), EXAMPLE).rank is None


def test_a_plan_on_disk_without_a_rank_keeps_full_maps():
    pair = {"target": "1", "substitute": "1", "channels": 512, "statistics": 512}
    plan = from_json(SurgeryPlan, {"pairs": [pair], "rank": None}, "plan", SurgeryError)
    assert plan.rank is None


def test_a_rank_is_of_a_form_with_maps_and_at_least_one():
    pairs = plan_pairs(_network("resnet8s-w4"), _plain(), EXAMPLE, rank=2).pairs
    for rank, form in ((0, "linear"), (2, "adain")):
        with pytest.raises(SurgeryError, match=rf"rank is {rank} for the {form} form, expected at least 1"):
            SurgeryPlan(pairs=pairs, form=form, rank=rank)
