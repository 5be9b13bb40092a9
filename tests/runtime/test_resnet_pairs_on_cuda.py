"""ResNet pairs, an eighth as wide as torchvision's, over the stub of the CUDA libraries."""

from __future__ import annotations

import onnx
import pytest

from abnn_serve.export.fp16 import to_fp16
from benchmarks.pair.graphs import pair_graphs
from tests.cuda_stub.process import Stub
from tests.graph_rules import broken_rules
from tests.runtime.test_cuda_without_a_gpu import CUDA, check_replays

PAIRS = {
    "resnet18 conditional": (178, 184),
    "resnet18 linear": (158, 204),
    "resnet50 conditional": (433, 441),
    "resnet50 linear": (380, 494),
}  # kernels started for one sample by the fp32 graph and the fp16 graph
SLOW = {"resnet18 linear", "resnet50 linear"}  # 14 s and half a minute to build
SIZE = 64  # at which the last feature map is larger than one pixel, as it is at 224


@pytest.fixture(
    scope="module", params=[pytest.param(name, marks=pytest.mark.slow if name in SLOW else ()) for name in PAIRS]
)
def pair(request, tmp_path_factory):
    """The name of a pair, and the files of its graphs by name."""
    network, form = request.param.split()
    graphs = pair_graphs(f"tests.networks:narrow_{network}", SIZE, 8, form)
    graphs["fused fp16"] = to_fp16(graphs["fused"])
    folder, files = tmp_path_factory.mktemp("pair"), {}
    for name, data in graphs.items():
        files[name] = folder / f"{name}.onnx"
        files[name].write_bytes(data)
    return request.param, files


@pytest.fixture(scope="module")
def fused(pair):
    return pair[1]["fused"]


def test_a_pair_keeps_to_the_rules_of_cuda_graphs(fused):
    assert broken_rules(onnx.load(fused)) == []


def test_every_node_of_a_pair_and_of_its_two_networks_runs_on_cuda_and_can_be_captured(pair, stub: Stub):
    _, files = pair
    names = [name for name in files if name != "exported"]
    answers = stub.ask("placement", *(files[name] for name in names))
    assert {name: list(answers[str(files[name])]) for name in names} == {name: [CUDA] for name in names}


def test_every_bucket_of_a_pair_replays_what_was_captured(fused, stub):
    check_replays(stub.ask("replays", fused))


def test_a_substitute_whose_output_is_a_map_runs_too(pair, stub):
    answer = stub.ask("replays", pair[1]["substitute"])
    check_replays(answer)
    assert len(answer["shape"]) == 4


def test_a_pair_starts_no_more_kernels_for_one_sample_than_it_did(pair, stub):
    name, files = pair
    graphs = [files["fused"], files["fused fp16"]]
    answers = stub.ask("launches", *graphs)
    single, half = (answers[str(graph)] for graph in graphs)
    assert single <= PAIRS[name][0]
    assert half <= PAIRS[name][1]
    assert name != "resnet18 conditional" or half <= 1.1 * single
