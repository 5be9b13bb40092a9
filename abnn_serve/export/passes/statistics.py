"""Computes the statistics of the substitute's taps in one pass over the feature map.

    var(y) = mean((y - mean(y))^2) = max(mean(y * y) - mean(y)^2, 0)

The exported form reads the feature map four times, the second time only after the first has ended, and outside the
convolutions' blocked layout; products and global average pooling stay in that layout. In float32 the difference loses
log2(1 + mean^2 / var) bits: few for the outputs of a trained BatchNorm, but too many for some random networks, for
which the parity check then skips this pass.
"""

from __future__ import annotations

from typing import Any

import onnx_ir as ir
from onnxscript.rewriter import RewriteRule

from abnn_serve.export.passes.rules import apply_rules, check_spatial, spatial_statistics


def _variance_pattern(op: Any, x: Any, shape: Any, axes: Any) -> Any:
    return spatial_statistics(op, x, shape, axes)[1]


def _variance(op: Any, x: ir.Value, mean: ir.Value, **_: Any) -> Any:
    square = op.Flatten(op.GlobalAveragePool(op.Mul(x, x)))
    return op.Relu(op.Sub(square, op.Mul(mean, mean)))


def _mean_pattern(op: Any, x: Any, shape: Any, axes: Any) -> Any:
    return op.ReduceMean(op.Reshape(x, shape), axes)


def _mean(op: Any, x: ir.Value, **_: Any) -> Any:
    return op.Flatten(op.GlobalAveragePool(x))


def compute_statistics_in_one_pass(model: ir.Model) -> None:
    """Rewrite every mean and variance over static spatial axes, in place."""
    # remove_nodes=False, because the mean has other readers
    apply_rules(model, RewriteRule(_variance_pattern, _variance, check_spatial, remove_nodes=False))
    apply_rules(model, RewriteRule(_mean_pattern, _mean, check_spatial))
