"""Reads the statistics of joined codes from half-precision feature maps, by one kernel for each tap.

    code = where(mean?, [m_1, q_1, m_2 ...], sqrt(max([m_1, q_1 ...] - [m_1, m_1 ...]^2, 0) + eps))
      = where(mean?, row, 1 / row) with row = [m_1, i_1, m_2 ...]

LayerNormalization over the positions of a channel returns, beside the normalised map that nothing reads, its mean m and
i = 1 / sqrt(var + eps), summed in float32. Casting the map, squaring it and pooling twice takes four kernels.
"""

from __future__ import annotations

import math

import numpy as np
import onnx_ir as ir
from onnx_ir.passes.common import TopologicalSortPass

from abnn_serve.export.passes.join_codes import concatenate
from abnn_serve.export.passes.rules import add_constant, chain_up, constant, dims


def read_half_maps(model: ir.Model) -> None:
    """Rewrite every joined code whose taps are all half-precision maps of known size, in place."""
    for node in [node for node in model.graph if node.op_type == "Where"]:
        _, moments, deviation = node.inputs
        chain = chain_up(deviation, "Sqrt", "Add", "Relu", "Sub")
        if moments is None or chain is None or chain[3].inputs[0] is not moments:
            continue
        eps = constant(chain[1].inputs[1])
        maps = _half_maps(moments)
        if eps is not None and eps.size == 1 and maps:
            _rewrite(model.graph, node, maps, float(eps.item()))
    TopologicalSortPass()(model)


def _half_maps(moments: ir.Value) -> list[ir.Value] | None:
    """The half-precision maps y of a row [mean(y_1), mean(y_1 y_1), mean(y_2) ...]; None if it is another row."""
    flat = chain_up(moments, "Flatten", "Concat")
    parts = _parts(flat[0].inputs[0]) if flat else []
    maps = []
    for mean, square in zip(parts[::2], parts[1::2], strict=False):
        pooled, squared = chain_up(mean, "GlobalAveragePool"), chain_up(square, "GlobalAveragePool", "Mul")
        if not pooled or not squared or any(value is not pooled[0].inputs[0] for value in squared[1].inputs):
            return None
        cast = chain_up(pooled[0].inputs[0], "Cast")
        half = cast[0].inputs[0] if cast else None
        if half is None or half.dtype != ir.DataType.FLOAT16 or None in dims(half)[1:]:
            return None
        maps.append(half)
    return maps if len(parts) == 2 * len(maps) else None


def _parts(value: ir.Value | None) -> list[ir.Value]:
    """The values that nested Concat nodes join."""
    node = value.producer() if value is not None else None
    if node is not None and node.op_type == "Concat":
        return [part for each in node.inputs for part in _parts(each)]
    return [] if value is None else [value]


def _rewrite(graph: ir.Graph, where: ir.Node, maps: list[ir.Value], eps: float) -> None:
    tape = ir.tape.Tape(graph)
    statistics = []
    for y in maps:
        channels, *spatial = (size or 1 for size in dims(y)[1:])
        size = math.prod(spatial)
        shape = add_constant(graph, f"{y.name}.rows", np.asarray([-1, channels, size]))
        ones = add_constant(graph, f"{y.name}.ones", np.ones(size, np.float16))
        attributes = {"axis": -1, "epsilon": eps, "stash_type": 1}
        rows = tape.op("Reshape", [y, shape])
        _, mean, inverse = tape.op_multi_out("LayerNormalization", [rows, ones], attributes, num_outputs=3)
        statistics += [mean, inverse]
    row = tape.op("Flatten", [concatenate(tape, statistics)])
    where.replace_input_with(1, row)
    where.replace_input_with(2, tape.op("Reciprocal", [row]))
