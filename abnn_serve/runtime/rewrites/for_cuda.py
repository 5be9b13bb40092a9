"""Rewrites a graph for CUDA when it is opened there: the same logits from fewer kernels.

The exported file suits CPUs, which run it too. On a GPU the time of a small kernel is that of its launch.
"""

from __future__ import annotations

import onnx
import onnx_ir as ir

from abnn_serve.runtime.rewrites.join_maps import join_maps
from abnn_serve.runtime.rewrites.statistics import read_maps_once


def rewrite_for_cuda(model: bytes) -> bytes:
    """Rewrite a serialised graph; its inputs, outputs and their names stay."""
    proto = onnx.shape_inference.infer_shapes(onnx.load_from_string(model))  # another program may have left shapes out
    graph = ir.serde.deserialize_model(proto)
    join_maps(graph, any_form=True)
    read_maps_once(graph)
    return bytes(ir.serde.serialize_model(graph).SerializeToString())
