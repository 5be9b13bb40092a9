"""An adaptive network with random weights, and its graphs."""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import onnx
import torch
from torch import nn

from abnn_serve.bundle.manifest import Pair
from abnn_serve.lab.export.graph import export_stages
from abnn_serve.lab.network import AdaptiveNetwork, PixelNetwork
from abnn_serve.lab.pairing import SurgeryPlan
from abnn_serve.lab.surgery import apply_plan
from abnn_serve.lab.zoo import build_network
from abnn_serve.spec import InputSpec


def build_pair(name: str, size: int, rank: int, layers: int | None = None) -> AdaptiveNetwork:
    """Target and substitute of one architecture with random weights and identical taps.

    Args:
        name: as `abnn train` takes it.
        size: pixels of a side.
        rank: of the maps; 0 leaves them full.
        layers: how many of the target's BatchNorms become adaptive, the first ones, the others folding away; None takes
            all.
    """
    torch.manual_seed(0)
    target, substitute = (PixelNetwork(build_network(name, num_classes=1000)) for _ in range(2))
    for plain in (target, substitute):
        plain.train()(torch.rand(8, 3, size, size))  # running statistics of some input
        plain.eval()
    norms = [(n, m.num_features) for n, m in target.body.named_modules() if isinstance(m, nn.BatchNorm2d)]
    pairs = tuple(Pair(target=n, substitute=n, channels=width, statistics=width) for n, width in norms[:layers])
    for n, _ in norms[len(pairs) :]:
        target.body.set_submodule(n, nn.Identity())
    network = apply_plan(target, substitute, SurgeryPlan(pairs=pairs, rank=rank or None)).eval()
    for layer in network.adaptive_layers:
        nn.init.normal_(layer.map, std=0.005)
    return network


def pair_graphs(name: str, size: int, rank: int, layers: int | None = None) -> dict[str, bytes]:
    """Serialised: `exported` as torch gives it, `fused` after the graph passes, and the substitute `alone`."""
    stages = export_stages(build_pair(name, size, rank, layers), InputSpec(height=size, width=size))
    exported = stages[0].model
    return {"exported": exported, "fused": stages[-1].model, "alone": _alone(exported)}


def pair_graphs_together(name: str, sizes: tuple[int, ...], rank: int) -> dict[int, dict[str, bytes]]:
    """The same for several sizes, each exported in a process of its own."""
    with ProcessPoolExecutor(len(sizes), mp_context=get_context("spawn")) as pool:
        return dict(
            zip(sizes, pool.map(pair_graphs, *zip(*((name, s, rank) for s in sizes), strict=True)), strict=True)
        )


def _alone(exported: bytes) -> bytes:
    """The substitute from the image to its last tapped convolution, BatchNorms folded."""
    model = onnx.load_from_string(exported)
    last = [node for node in model.graph.node if node.op_type == "Conv" and "substitute" in node.input[1]][-1]
    (tap,) = last.output
    return bytes(onnx.utils.Extractor(model).extract_model(["image"], [tap]).SerializeToString())
