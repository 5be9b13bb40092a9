"""Graph passes: the exported graph, rewritten until the fused pair costs no more than its arithmetic.

torch's exporter has folded constants and BatchNorms, and left out what no logit depends on, such as the substitute's
classifier; these passes start from there, in this order.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import onnx_ir as ir

from abnn_serve.export.passes.adaptive import normalise_in_one_kernel
from abnn_serve.export.passes.codes import absorb_constants
from abnn_serve.export.passes.codes_together import finish_codes_together
from abnn_serve.export.passes.maps_together import merge_maps
from abnn_serve.export.passes.pixels import absorb_pixel_scale
from abnn_serve.export.passes.running import absorb_running_statistics
from abnn_serve.export.passes.statistics import take_statistics_in_one_pass
from abnn_serve.export.passes.strides import drop_identity_strides

PASSES: dict[str, Callable[[ir.Model], None]] = {
    "identity strides dropped": drop_identity_strides,
    "pixel scale into the first convolution": absorb_pixel_scale,
    "constants into the maps": absorb_constants,
    "running statistics into the maps": absorb_running_statistics,
    "adaptive layers as one kernel": normalise_in_one_kernel,
    "statistics in one pass": take_statistics_in_one_pass,
    "codes together": finish_codes_together,
    "maps together": merge_maps,
}


@dataclass(frozen=True)
class Stage:
    """The graph after one pass: how many nodes it has, and its bytes."""

    name: str
    graph: ir.Model

    @property
    def nodes(self) -> int:
        return len(self.graph.graph)

    @cached_property
    def model(self) -> bytes:
        return bytes(ir.serde.serialize_model(self.graph).SerializeToString())


def run_passes(model: ir.Model) -> list[Stage]:
    """Rewrite `model` in place; what it was after every pass, first as torch exported it."""
    stages = [Stage("as exported", model.clone())]
    for name, rewrite in PASSES.items():
        rewrite(model)
        stages.append(Stage(name, model.clone()))
    return stages
