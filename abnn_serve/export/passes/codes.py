"""Scale of the standardisation and static parts absorbed into the maps.

    gamma, beta = split(M ((code - center) / scale)) + static = split(M' (code - center) + static)
      with M' = M / scale, column by column

A map of bounded rank is M = U V: V takes the scale and U the static part. The subtraction stays: it is exact where
center is large beside scale, and M' center + M' code would not be.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
from onnxscript.rewriter import MatchResult, RewriteRule

from abnn_serve.export.passes.rules import add_constant, apply_rules, constant, constants, known, only_reader, tidy


def _pattern(op: Any, deviation: Any, scale: Any, matrix: Any) -> Any:
    return op.Gemm(op.Div(deviation, scale), matrix, transB=1)


def _check(_: Any, scale: ir.Value, matrix: ir.Value, **__: Any) -> MatchResult:
    result = MatchResult()
    return result if constants(scale, matrix) else result.fail("a factor is computed, expected constants")


def _rewrite(op: Any, deviation: ir.Value, scale: ir.Value, matrix: ir.Value) -> Any:
    divisor, exact = (np.asarray(constant(value), np.float64) for value in (scale, matrix))
    weight = op.initializer(ir.tensor((exact / divisor).astype(np.float32)), name=f"{matrix.name}.absorbed")
    return op.Gemm(deviation, weight, transB=1)


def absorb_constants(model: ir.Model) -> None:
    """Rewrite every map from a standardised code to gamma and beta."""
    apply_rules(model, RewriteRule(_pattern, _rewrite, _check))
    for node in model.graph:
        if node.op_type == "Split":
            _absorb_static_parts(model.graph, node)
    tidy(model)


def _absorb_static_parts(graph: ir.Graph, split: ir.Node) -> None:
    """Move what is added to every part of a split product into the product's bias."""
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
    """The one node that reads a value, if it adds a constant vector; and that vector."""
    node = only_reader(part)
    if node is None or node.op_type != "Add":
        return None
    vector = next((constant(value) for value in node.inputs if value is not part), None)
    return None if vector is None or list(vector.shape) != known(part)[1:] else (node, vector)
