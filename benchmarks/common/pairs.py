"""An adaptive network with random weights, and its graphs."""

from __future__ import annotations

import argparse
from concurrent.futures import ProcessPoolExecutor
from functools import lru_cache
from multiprocessing import get_context

import onnx
import torch
from onnx import helper
from torch import nn

from abnn_serve.bundle.manifest import Pair
from abnn_serve.export.graph import export_stages
from abnn_serve.lab.abnn.adaptive_norm import Form
from abnn_serve.lab.abnn.network import AdaptiveNetwork, PixelNetwork
from abnn_serve.lab.abnn.plan import SurgeryPlan
from abnn_serve.lab.abnn.surgery import apply_plan
from abnn_serve.lab.networks.zoo import build_network
from abnn_serve.spec import InputSpec

Graphs = dict[str, bytes]


def add_pair_options(parser: argparse.ArgumentParser) -> None:
    """Options that say which pair to build: --network, --rank and --form."""
    parser.add_argument("--network", default="resnet18", help="of both, by the name that abnn train takes")
    parser.add_argument("--rank", type=int, default=32, help="of the maps; 0 leaves them full")
    parser.add_argument(
        "--form", choices=("conditional", "linear"), default="conditional", help="of the adaptive layers"
    )


@lru_cache(maxsize=1)
def build_pair(
    name: str, size: int, rank: int, form: Form = "conditional", layers: int | None = None
) -> AdaptiveNetwork:
    """Target and substitute of one architecture with random weights and identical taps.

    Args:
        name: as `abnn train` takes it.
        size: pixels of a side.
        rank: of the maps; 0 leaves them full.
        form: of the adaptive layers.
        layers: how many of the target's BatchNorms become adaptive, the first ones, the others folding away; None takes
            all.
    """
    torch.manual_seed(0)
    target, substitute = (PixelNetwork(build_network(name, num_classes=1000)) for _ in range(2))
    for plain in (target, substitute):
        plain.train()(torch.rand(2, 3, size, size))  # running statistics of some input
        plain.eval()
    norms = [(n, m.num_features) for n, m in target.body.named_modules() if isinstance(m, nn.BatchNorm2d)]
    pairs = tuple(Pair(target=n, substitute=n, channels=width, statistics=width) for n, width in norms[:layers])
    for n, _ in norms[len(pairs) :]:
        target.body.set_submodule(n, nn.Identity())
    network = apply_plan(target, substitute, SurgeryPlan(pairs=pairs, form=form, rank=rank or None)).eval()
    for layer in network.adaptive_layers:
        nn.init.normal_(layer.map, std=0.005)
    return network


def pair_graphs(name: str, size: int, rank: int, form: Form = "conditional", layers: int | None = None) -> Graphs:
    """Serialised: `exported` as torch gives it, `fused` after the graph passes; `target` and `substitute` alone."""
    stages = export_stages(build_pair(name, size, rank, form, layers), InputSpec(height=size, width=size))
    exported = stages[0].model
    graphs = {"exported": exported, "fused": stages[-1].model}
    return {**graphs, "target": _undefended(exported), "substitute": _alone(exported).SerializeToString()}


def pair_graphs_together(name: str, sizes: tuple[int, ...], rank: int, form: Form) -> dict[int, Graphs]:
    """The same for several sizes: the first is exported here, the others in processes of their own meanwhile."""
    here, *others = sizes
    with ProcessPoolExecutor(len(sizes), mp_context=get_context("spawn")) as pool:
        elsewhere = {size: pool.submit(pair_graphs, name, size, rank, form) for size in others}
        graphs = {here: pair_graphs(name, here, rank, form)}
        return {**graphs, **{size: job.result() for size, job in elsewhere.items()}}


def pair_graphs_resized(name: str, sizes: tuple[int, ...], rank: int) -> dict[int, Graphs]:
    """The same of the conditional form, from one export: after the passes nothing but the input knows its size."""
    graphs = pair_graphs(name, sizes[0], rank)
    del graphs["exported"]
    others = {size: {what: _resized(model, size) for what, model in graphs.items()} for size in sizes[1:]}
    return {sizes[0]: graphs, **others}


def _resized(serialised: bytes, size: int) -> bytes:
    model = onnx.load_from_string(serialised)
    for dimension in model.graph.input[0].type.tensor_type.shape.dim[1:3]:
        dimension.dim_value = size
    for output in model.graph.output:
        output.type.tensor_type.ClearField("shape")
    del model.graph.value_info[:]
    return bytes(model.SerializeToString())


def _alone(exported: bytes) -> onnx.ModelProto:
    """The substitute from the image to its last tapped convolution, BatchNorms folded."""
    model = onnx.load_from_string(exported)
    last = [node for node in model.graph.node if node.op_type == "Conv" and "substitute" in node.input[1]][-1]
    (tap,) = last.output
    return onnx.utils.Extractor(model).extract_model(["image"], [tap])


def _undefended(exported: bytes) -> bytes:
    """The target without its defence: convolutions as the substitute's, pooling and the target's classifier."""
    model, alone = onnx.load_from_string(exported), _alone(exported)
    classifier = next(node for node in model.graph.node if "logits" in node.output)
    (tap,) = alone.graph.output
    kinds = ("Relu", "GlobalAveragePool", "Flatten")
    values = [tap.name, *(f"undefended.{kind}" for kind in kinds)]
    steps = zip(kinds, values, values[1:], strict=False)
    alone.graph.node.extend(helper.make_node(kind, [before], [after]) for kind, before, after in steps)
    classifier.input[0] = values[-1]
    alone.graph.node.append(classifier)
    alone.graph.initializer.extend(each for each in model.graph.initializer if each.name in classifier.input)
    alone.graph.output[0].CopyFrom(model.graph.output[0])
    onnx.checker.check_model(alone)
    return bytes(alone.SerializeToString())
