"""An ABNN pair with random weights, and its graphs."""

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

Graphs = dict[str, bytes]  # serialised, by name


def add_pair_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that choose a pair: --network, --rank and --form."""
    parser.add_argument("--network", default="resnet18", help="target and substitute, a name that abnn train accepts")
    parser.add_argument("--rank", type=int, default=32, help="rank of the adaptive maps; 0 for full rank")
    parser.add_argument("--form", choices=("conditional", "linear"), default="conditional", help="adaptive layers")


def random_networks(name: str, classes: int, shape: tuple[int, ...]) -> tuple[PixelNetwork, PixelNetwork]:
    """Two networks with random weights, with running statistics of random input of this shape, in evaluation mode."""
    torch.manual_seed(0)
    target, substitute = (PixelNetwork(build_network(name, num_classes=classes)) for _ in range(2))
    for network in (target, substitute):
        with torch.no_grad():
            network.train()(torch.rand(2, *shape))
        network.eval()
    return target, substitute


@lru_cache(maxsize=1)
def build_pair(
    name: str, size: int, rank: int, form: Form = "conditional", layers: int | None = None
) -> AdaptiveNetwork:
    """Target and substitute of one architecture, with random weights and identical taps.

    Args:
        name: the network, a name that `abnn train` accepts.
        size: height and width in pixels.
        rank: rank of the adaptive maps; 0 for full rank.
        form: form of the adaptive layers.
        layers: how many of the target's first BatchNorms become adaptive; the others are removed, as if folded away.
            None makes all adaptive.
    """
    target, substitute = random_networks(name, 1000, (3, size, size))
    norms = [(n, m.num_features) for n, m in target.body.named_modules() if isinstance(m, nn.BatchNorm2d)]
    pairs = tuple(Pair(target=n, substitute=n, channels=width, statistics=width) for n, width in norms[:layers])
    for n, _ in norms[len(pairs) :]:
        target.body.set_submodule(n, nn.Identity())
    network = apply_plan(target, substitute, SurgeryPlan(pairs=pairs, form=form, rank=rank or None)).eval()
    for layer in network.adaptive_layers:
        nn.init.normal_(layer.map, std=0.005)
    return network


def pair_graphs(name: str, size: int, rank: int, form: Form = "conditional", layers: int | None = None) -> Graphs:
    """The pair as torch exports it and after the graph passes, and each network alone; arguments as in `build_pair`.

    Returns:
        Graphs named `exported`, `fused`, `target` and `substitute`.
    """
    stages = export_stages(build_pair(name, size, rank, form, layers), InputSpec(height=size, width=size))
    exported = stages[0].model
    graphs = {"exported": exported, "fused": stages[-1].model}
    return {**graphs, "target": _target_alone(exported), "substitute": _substitute_alone(exported).SerializeToString()}


def pair_graphs_together(name: str, sizes: tuple[int, ...], rank: int, form: Form) -> dict[int, Graphs]:
    """`pair_graphs` for several sizes at once: the first in this process, each other in a process of its own."""
    first, *others = sizes
    with ProcessPoolExecutor(len(sizes), mp_context=get_context("spawn")) as pool:
        jobs = {size: pool.submit(pair_graphs, name, size, rank, form) for size in others}
        graphs = {first: pair_graphs(name, first, rank, form)}
        return {**graphs, **{size: job.result() for size, job in jobs.items()}}


def pair_graphs_resized(name: str, sizes: tuple[int, ...], rank: int) -> dict[int, Graphs]:
    """`pair_graphs` of the conditional form for several sizes from one export, without `exported`.

    After the passes of this form only the input's shape depends on the size.
    """
    graphs = pair_graphs(name, sizes[0], rank)
    del graphs["exported"]
    others = {size: {part: _resized(model, size) for part, model in graphs.items()} for size in sizes[1:]}
    return {sizes[0]: graphs, **others}


def _resized(serialised: bytes, size: int) -> bytes:
    model = onnx.load_from_string(serialised)
    for dimension in model.graph.input[0].type.tensor_type.shape.dim[1:3]:
        dimension.dim_value = size
    for output in model.graph.output:
        output.type.tensor_type.ClearField("shape")
    del model.graph.value_info[:]
    return bytes(model.SerializeToString())


def _substitute_alone(exported: bytes) -> onnx.ModelProto:
    """The substitute from the image to its last tapped convolution, with folded BatchNorms."""
    model = onnx.load_from_string(exported)
    last = [node for node in model.graph.node if node.op_type == "Conv" and "substitute" in node.input[1]][-1]
    (tap,) = last.output
    return onnx.utils.Extractor(model).extract_model(["image"], [tap])


def _target_alone(exported: bytes) -> bytes:
    """The target without adaptive layers: the substitute's graph, a ReLU, pooling and the target's classifier.

    Both networks have one architecture, so the substitute's convolutions cost what the target's do.
    """
    model, network = onnx.load_from_string(exported), _substitute_alone(exported)
    classifier = next(node for node in model.graph.node if "logits" in node.output)
    (tap,) = network.graph.output
    operators = ("Relu", "GlobalAveragePool", "Flatten")
    values = [tap.name, *(f"alone.{kind}" for kind in operators)]
    steps = zip(operators, values, values[1:], strict=False)
    network.graph.node.extend(helper.make_node(kind, [before], [after]) for kind, before, after in steps)
    classifier.input[0] = values[-1]
    network.graph.node.append(classifier)
    network.graph.initializer.extend(weights for weights in model.graph.initializer if weights.name in classifier.input)
    network.graph.output[0].CopyFrom(model.graph.output[0])
    onnx.checker.check_model(network)
    return bytes(network.SerializeToString())
