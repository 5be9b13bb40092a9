"""Joins neighbouring maps of equal shape into one batched product.

    for each of the L layers of a run:  gamma_i, beta_i = split(U_i V_i code_i + b_i)
      = split(U (V codes) + b)
      with codes (L, 1, N, 2K), V (L, 1, 2K, r), U (L, 2, r, C) and b (L, 2, 1, C) stacked

A map of full rank has no V. Networks repeat their widths, so the joined code has a few runs of maps of equal shape: 20
maps of rank 64 take 8 products instead of 40. This saves kernel launches on GPUs; on a CPU, where reading the maps
takes the time, it gains nothing. In the conditional form it makes OpenVINO slower at 1x32x32, so there only graphs for
GPUs are rewritten.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from onnx_ir.passes.common import TopologicalSortPass

from abnn_serve.runtime.rewrites.values import constant, dims, only_reader, tidy

_MIN_MAPS = 3  # two take as many nodes joined as separate

Numbers = NDArray[np.float32]


@dataclass(frozen=True)
class _Map:
    """A map from a code to gamma and beta.

    Attributes:
        factors: (2K, r) and (r, 2C), or one (2K, 2C).
        bias: (2C,).
        halves: gamma and beta.
    """

    factors: tuple[Numbers, ...]
    bias: Numbers
    halves: tuple[ir.Value, ir.Value]

    @property
    def shape(self) -> tuple[tuple[int, ...], ...]:
        return tuple(factor.shape for factor in self.factors)


def join_maps(model: ir.Model, *, any_form: bool = False) -> None:
    """Rewrite every run of maps of equal shape whose codes are neighbours in a joined code, in place.

    Args:
        model: after `join_codes`.
        any_form: rewrite maps of the conditional form, too, whose gamma and beta are not only flattened.
    """
    for split in [node for node in model.graph if node.op_type == "Split"]:
        maps = [(code, _match(code, any_form=any_form)) for code in split.outputs]
        runs = [list(run) for _, run in groupby(maps, key=lambda pair: pair[1].shape if pair[1] else None)]
        if any(_can_join(run) for run in runs):
            _join(model, split, runs)
    TopologicalSortPass()(model)
    tidy(model)


def _match(code: ir.Value, *, any_form: bool) -> _Map | None:
    """The map that is the only reader of a code, if its two halves are only flattened or in any form; else None."""
    factors: list[Numbers] = []
    bias: Numbers | None = None
    node = only_reader(code)
    while node is not None and node.op_type == "Gemm" and bias is None:
        factor, bias = constant(node.inputs[1]), constant(node.inputs[2]) if len(node.inputs) == 3 else None
        if factor is None or node.attributes.get_int("transB", 0) != 1:
            return None
        factors.append(factor.T)
        node = only_reader(node.outputs[0])
    if not 1 <= len(factors) <= 2 or bias is None or node is None or not _splits_in_half(node):
        return None
    gamma, beta = node.outputs
    if not any_form and not (_is_flattened(gamma) and _is_flattened(beta)):
        return None
    return _Map(tuple(factors), bias, (gamma, beta))


def _splits_in_half(node: ir.Node) -> bool:
    if node.op_type != "Split" or len(node.outputs) != 2:
        return False
    sizes = constant(node.inputs[1]) if len(node.inputs) > 1 else None
    return sizes is None or sizes[0] == sizes[1]


def _is_flattened(half: ir.Value) -> bool:
    """Whether the only reader reshapes to one dimension."""
    reader = only_reader(half)
    shape = constant(reader.inputs[1]) if reader is not None and reader.op_type == "Reshape" else None
    return shape is not None and shape.tolist() == [-1]


def _can_join(run: list[tuple[ir.Value, _Map | None]]) -> bool:
    return len(run) >= _MIN_MAPS and run[0][1] is not None


def _join(model: ir.Model, split: ir.Node, runs: list[list[tuple[ir.Value, _Map | None]]]) -> None:
    """Split the joined code into runs that become one product, and single codes."""
    tape = ir.tape.Tape(model.graph)
    pieces = [piece for run in runs for piece in ([run] if _can_join(run) else [[single] for single in run])]
    assert split.inputs[0] is not None  # noqa: S101
    parts = [split.inputs[0]]
    if len(pieces) > 1:
        widths = [sum(dims(code)[1] or 0 for code, _ in piece) for piece in pieces]
        sizes = tape.initializer(ir.tensor(np.asarray(widths, np.int64)), name=f"{split.outputs[0].name}.runs")
        parts = list(tape.op_multi_out("Split", [*parts, sizes], {"axis": 1}, num_outputs=len(pieces)))
    for part, piece in zip(parts, pieces, strict=True):
        maps = [match for _, match in piece if match]
        if len(piece) > 1:
            _multiply(tape, part, maps, f"{piece[0][0].name}.maps")
        else:
            part.shape, part.type = piece[0][0].shape, piece[0][0].type
            ir.convenience.replace_all_uses_with(piece[0][0], part)


def _multiply(tape: ir.tape.Tape, codes: ir.Value, maps: list[_Map], name: str) -> None:
    def constant_of(numbers: NDArray[Any], suffix: str) -> ir.Value:
        return tape.initializer(ir.tensor(np.ascontiguousarray(numbers)), name=f"{name}.{suffix}")

    *inner, last = (np.stack(factors) for factors in zip(*(each.factors for each in maps), strict=True))
    layers, rank, channels = last.shape[0], last.shape[1], last.shape[2] // 2
    shape = constant_of(np.asarray([-1, layers, 1, maps[0].shape[0][0]]), "shape")
    values = tape.op("Transpose", [tape.op("Reshape", [codes, shape])], {"perm": [1, 2, 0, 3]})
    for factor in inner:
        values = tape.op("MatMul", [values, constant_of(factor[:, None], "inner")])
    outer = last.reshape(layers, rank, 2, channels).transpose(0, 2, 1, 3)
    bias = np.stack([each.bias for each in maps]).reshape(layers, 2, 1, channels)
    values = tape.op("Add", [tape.op("MatMul", [values, constant_of(outer, "outer")]), constant_of(bias, "bias")])
    rows = tape.op("Reshape", [values, constant_of(np.asarray([2 * layers, -1]), "rows")])
    parts = tape.op_multi_out("Split", [rows], {"axis": 0, "num_outputs": 2 * layers}, num_outputs=2 * layers)
    by_sample = constant_of(np.asarray([-1, channels]), "by_sample")
    for half, part in zip((half for each in maps for half in each.halves), parts, strict=True):
        if not _is_flattened(half):  # a reader that flattens accepts any shape
            part = tape.op("Reshape", [part, by_sample])  # noqa: PLW2901
        ir.convenience.replace_all_uses_with(half, part)
