"""Graph passes: rewrites of the exported graph that remove the overhead of fusing two networks.

torch's exporter has already folded constants and BatchNorms, and dropped nodes that no logit depends on, such as the
substitute's classifier. The passes run in the order of PASSES.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import onnx_ir as ir

from abnn_serve.export.passes.adaptive import fuse_adaptive_layers
from abnn_serve.export.passes.constants import fold_constants
from abnn_serve.export.passes.join_codes import join_codes
from abnn_serve.export.passes.pixels import fold_pixel_scale
from abnn_serve.export.passes.running import fold_running_statistics
from abnn_serve.export.passes.statistics import compute_statistics_in_one_pass
from abnn_serve.export.passes.strides import drop_identity_gathers
from abnn_serve.runtime.rewrites.join_maps import join_maps

PASSES: dict[str, Callable[[ir.Model], None]] = {
    "drop gathers that keep all elements in order": drop_identity_gathers,
    "fold the pixel scale into the first convolution": fold_pixel_scale,
    "fold constants into the maps": fold_constants,
    "fold running statistics into the maps": fold_running_statistics,
    "fuse adaptive layers into one kernel": fuse_adaptive_layers,
    "compute statistics in one pass": compute_statistics_in_one_pass,
    "join the codes": join_codes,
    "join the maps": join_maps,
}


@dataclass(frozen=True)
class Stage:
    """The graph after one pass.

    Attributes:
        nodes: number of nodes.
        model: the serialised graph.
    """

    name: str
    graph: ir.Model

    @property
    def nodes(self) -> int:
        return len(self.graph.graph)

    @cached_property
    def model(self) -> bytes:
        return bytes(ir.serde.serialize_model(self.graph).SerializeToString())


def run_passes(model: ir.Model) -> list[Stage]:
    """Rewrite `model` in place; returns the stages, from the exported graph to the last pass."""
    stages = [Stage("as exported", model.clone())]
    for name, rewrite in PASSES.items():
        rewrite(model)
        stages.append(Stage(name, model.clone()))
    return stages
