"""Fuses an adaptive layer into InstanceNormalization with computed scale and bias.

    gamma * (z - mu) / sqrt(var + eps) + beta, each (N, C)
      = InstanceNormalization of z as one sample of N*C channels, (1, N*C, *S), scale gamma and bias beta, each (N*C,)

This computes the statistics and the affine map in one kernel while the channel is in cache, on the CPU and on CUDA; the
exported form reads the feature map six times. Each channel still depends on its own sample alone.
"""

from __future__ import annotations

from typing import Any

import onnx_ir as ir
from onnxscript.rewriter import MatchResult, RewriteRule

from abnn_serve.export.passes.rules import apply_rules, check_spatial, spatial_statistics
from abnn_serve.runtime.rewrites.values import constant, dims


def _pattern(op: Any, x: Any, shape: Any, axes: Any, eps: Any, gamma: Any, beta: Any, spatial: Any) -> Any:
    mean, variance = spatial_statistics(op, x, shape, axes)
    scale = op.Mul(gamma, op.Reciprocal(op.Sqrt(op.Add(variance, eps))))
    shift = op.Sub(beta, op.Mul(mean, scale))
    return op.Add(op.Mul(x, op.Unsqueeze(scale, spatial)), op.Unsqueeze(shift, spatial))


def _pattern_of_clips(
    op: Any, x: Any, shape: Any, axes: Any, eps: Any, gamma: Any, beta: Any, spatial: Any, last: Any
) -> Any:
    """The pattern for clips: the exporter adds their three spatial axes in two steps."""
    mean, variance = spatial_statistics(op, x, shape, axes)
    scale = op.Mul(gamma, op.Reciprocal(op.Sqrt(op.Add(variance, eps))))
    shift = op.Sub(beta, op.Mul(mean, scale))
    wide, high = (op.Unsqueeze(op.Unsqueeze(value, spatial), last) for value in (scale, shift))
    return op.Add(op.Mul(x, wide), high)


def _check(context: Any, x: ir.Value, shape: ir.Value, axes: ir.Value, eps: ir.Value, **_: Any) -> MatchResult:
    value = constant(eps)
    if value is None or value.size != 1:
        return MatchResult().fail("eps is not a scalar constant")
    return check_spatial(context, x, shape, axes)


def _rewrite(op: Any, x: ir.Value, eps: ir.Value, gamma: ir.Value, beta: ir.Value, **_: Any) -> Any:
    channels_and_size = dims(x)[1:]
    flat = op.Constant(value_ints=[-1])
    rows = op.Reshape(x, op.Constant(value_ints=[1, -1, *channels_and_size[1:]]))
    value = constant(eps)
    assert value is not None  # noqa: S101
    normed = op.InstanceNormalization(
        rows, op.Reshape(gamma, flat), op.Reshape(beta, flat), epsilon=float(value.item())
    )
    return op.Reshape(normed, op.Constant(value_ints=[-1, *channels_and_size]))


def fuse_adaptive_layers(model: ir.Model) -> None:
    """Rewrite every adaptive layer of known spatial size."""
    apply_rules(model, *(RewriteRule(pattern, _rewrite, _check) for pattern in (_pattern, _pattern_of_clips)))
