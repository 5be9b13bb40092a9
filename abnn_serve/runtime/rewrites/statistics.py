"""Reads the statistics of each feature map by one kernel instead of three.

    one code:      [m, sqrt(max(q - m^2, 0) + eps)] = [m, 1 / i]
    joined codes:  where(mean?, [m_1, q_1, m_2 ...], sqrt(max([m_1, q_1 ...] - [m_1, m_1 ...]^2, 0) + eps))
      = where(mean?, row, 1 / row) with row = [m_1, i_1, m_2 ...]

where m and q are the means of y and y * y over the positions of a channel. LayerNormalization over these positions
returns, beside the normalised map that nothing reads, the mean m and i = 1 / sqrt(var + eps), summed in float32, also
of a half-precision map. On a CPU it is slower than products and pooling, because it leaves the convolutions' layout.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from onnx_ir.passes.common import TopologicalSortPass

from abnn_serve.runtime.rewrites.values import add_constant, chain_up, concatenate, constant, dims, tidy

_FLOATS = {ir.DataType.FLOAT: np.float32, ir.DataType.FLOAT16: np.float16}


def read_maps_once(model: ir.Model) -> None:
    """Rewrite every joined code whose taps are all maps of known size, and every single one, in place."""
    for node in list(model.graph):
        if node.op_type == "Where":
            _rewrite_joined(model.graph, node)
        elif node.op_type == "Sqrt":
            _rewrite_single(model.graph, node)
    TopologicalSortPass()(model)
    tidy(model)


def _rewrite_joined(graph: ir.Graph, where: ir.Node) -> None:
    _, moments, deviation = where.inputs
    chain = chain_up(deviation, "Sqrt", "Add", "Relu", "Sub")
    if moments is None or chain is None or chain[3].inputs[0] is not moments:
        return
    eps, maps = _scalar(chain[1].inputs[1]), _maps_of_row(moments)
    if eps is None or not maps:
        return
    tape = ir.tape.Tape(graph)
    row = concatenate(tape, [value for y in maps for value in _statistics(tape, graph, y, eps)])
    where.replace_input_with(1, row)
    where.replace_input_with(2, tape.op("Reciprocal", [row]))


def _rewrite_single(graph: ir.Graph, root: ir.Node) -> None:
    chain = chain_up(root.outputs[0], "Sqrt", "Add", "Relu", "Sub")
    product = chain_up(chain[3].inputs[1], "Mul") if chain else None
    if chain is None or product is None:
        return
    square, mean = (chain_up(value, "Flatten") for value in (chain[3].inputs[0], product[0].inputs[0]))
    if not square or not mean or any(value is not mean[0].outputs[0] for value in product[0].inputs):
        return
    eps, y = _scalar(chain[1].inputs[1]), _map(mean[0].inputs[0], square[0].inputs[0])
    if eps is None or y is None:
        return
    tape = ir.tape.Tape(graph)
    m, inverse = _statistics(tape, graph, y, eps)
    ir.convenience.replace_all_uses_with(mean[0].outputs[0], m)
    ir.convenience.replace_all_uses_with(root.outputs[0], tape.op("Reciprocal", [inverse]))


def _scalar(value: ir.Value | None) -> float | None:
    numbers = constant(value)
    return float(numbers.item()) if numbers is not None and numbers.size == 1 else None


def _maps_of_row(moments: ir.Value) -> list[ir.Value]:
    """The maps y of a row [mean(y_1), mean(y_1 y_1), mean(y_2) ...]; empty if it is another row."""
    flat = chain_up(moments, "Flatten", "Concat")
    parts = _parts(flat[0].inputs[0]) if flat else []
    maps = [y for pair in zip(parts[::2], parts[1::2], strict=False) if (y := _map(*pair)) is not None]
    return maps if len(parts) == 2 * len(maps) else []


def _parts(value: ir.Value | None) -> list[ir.Value]:
    """The values that nested Concat nodes join."""
    node = value.producer() if value is not None else None
    if node is not None and node.op_type == "Concat":
        return [part for each in node.inputs for part in _parts(each)]
    return [] if value is None else [value]


def _map(mean: ir.Value | None, square: ir.Value | None) -> ir.Value | None:
    """The map of known size whose mean, and whose square's mean, these values are; before its cast to float32."""
    pooled, squared = chain_up(mean, "GlobalAveragePool"), chain_up(square, "GlobalAveragePool", "Mul")
    if not pooled or not squared or any(value is not pooled[0].inputs[0] for value in squared[1].inputs):
        return None
    cast = chain_up(pooled[0].inputs[0], "Cast")
    y = cast[0].inputs[0] if cast else pooled[0].inputs[0]
    return y if y is not None and y.dtype in _FLOATS and dims(y)[1:] and None not in dims(y)[1:] else None


def _statistics(tape: ir.tape.Tape, graph: ir.Graph, y: ir.Value, eps: float) -> tuple[ir.Value, ir.Value]:
    """The statistics m and i of a map (N, C, *S), each (N, C).

    They take their shape from the normalised map: ONNX Runtime would otherwise keep it until the run ends.
    """
    channels, *spatial = (size or 1 for size in dims(y)[1:])
    size = math.prod(spatial)
    shape = _constant(graph, f"{y.name}.rows", np.asarray([-1, channels, size]))
    ones = _constant(graph, f"{y.name}.ones", np.ones(size, _FLOATS[y.dtype or ir.DataType.FLOAT]))
    attributes = {"axis": -1, "epsilon": eps, "stash_type": 1}
    rows = tape.op("Reshape", [y, shape])
    normalised, mean, inverse = tape.op_multi_out("LayerNormalization", [rows, ones], attributes, num_outputs=3)
    flat = tape.op("Shape", [normalised], {"start": 0, "end": 2})
    return tape.op("Reshape", [mean, flat]), tape.op("Reshape", [inverse, flat])


def _constant(graph: ir.Graph, name: str, numbers: NDArray[Any]) -> ir.Value:
    """The initialiser of this name, which another code of the same map may have added."""
    return graph.initializers.get(name) or add_constant(graph, name, numbers)
