"""Folds the scale of the standardisation, and static parts, into the maps.

    gamma, beta = split(M ((code - center) / scale)) + static = split(M' (code - center) + static)
      with M' = M / scale, column by column

In a map of limited rank, M = U V, the scale goes into V and the static part into the bias of U. The subtraction stays:
it is exact even where center is much larger than scale, and M' code - M' center would not be.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
from onnxscript.rewriter import MatchResult, RewriteRule

from abnn_serve.export.passes.rules import apply_rules
from abnn_serve.runtime.rewrites.values import add_constant, constant, constants, dims, only_reader, tidy


def _pattern(op: Any, deviation: Any, scale: Any, matrix: Any) -> Any:
    return op.Gemm(op.Div(deviation, scale), matrix, transB=1)


def _check(_: Any, scale: ir.Value, matrix: ir.Value, **__: Any) -> MatchResult:
    result = MatchResult()
    return result if constants(scale, matrix) else result.fail("a factor is computed, expected a constant")


def _rewrite(op: Any, deviation: ir.Value, scale: ir.Value, matrix: ir.Value) -> Any:
    divisor, exact = (np.asarray(constant(value), np.float64) for value in (scale, matrix))
    weight = op.initializer(ir.tensor((exact / divisor).astype(np.float32)), name=f"{matrix.name}.absorbed")
    return op.Gemm(deviation, weight, transB=1)


def fold_constants(model: ir.Model) -> None:
    """Rewrite every map from a standardised code to gamma and beta, in place."""
    apply_rules(model, RewriteRule(_pattern, _rewrite, _check))
    for node in model.graph:
        if node.op_type == "Split":
            _fold_static_parts(model.graph, node)
    tidy(model)


def _fold_static_parts(graph: ir.Graph, split: ir.Node) -> None:
    """Move the constants added to each part of a split product into the product's bias."""
    product = split.inputs[0].producer() if split.inputs[0] else None
    if product is None or product.op_type != "Gemm" or only_reader(product.outputs[0]) is None:
        return
    bias = constant(product.inputs[2]) if len(product.inputs) == 3 else np.zeros((), np.float32)
    additions = [addition for part in split.outputs if (addition := _only_addition(part))]
    if bias is None or len(additions) != len(split.outputs):
        return
    static = (bias + np.concatenate([vector for _, vector in additions])).astype(np.float32)
    product.resize_inputs(3)
    product.replace_input_with(2, add_constant(graph, f"{product.outputs[0].name}.static", static))
    for part, (node, _) in zip(split.outputs, additions, strict=True):
        ir.convenience.replace_all_uses_with(node.outputs[0], part)


def _only_addition(part: ir.Value) -> tuple[ir.Node, Any] | None:
    """The only reader of a value and the constant vector that it adds; None if the reader does something else."""
    node = only_reader(part)
    if node is None or node.op_type != "Add":
        return None
    vector = next((constant(value) for value in node.inputs if value is not part), None)
    return None if vector is None or list(vector.shape) != dims(part)[1:] else (node, vector)
