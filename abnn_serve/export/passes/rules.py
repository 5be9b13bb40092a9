"""Helpers of the passes: applying rules, and the subgraph of the statistics."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
from onnxscript.rewriter import MatchResult, RewritePass, RewriteRule

from abnn_serve.runtime.rewrites.values import constant, dims, tidy


def apply_rules(model: ir.Model, *rules: RewriteRule) -> None:
    """Apply rewrite rules until none matches, then `tidy`."""
    RewritePass(rules)(model)
    tidy(model)


def spatial_statistics(op: Any, x: Any, shape: Any, axes: Any) -> tuple[Any, Any]:
    """Pattern of `channel_statistics` as torch exports it: mean and biased variance over the S of x, (N, C, *S)."""
    flat = op.Reshape(x, shape)
    mean = op.ReduceMean(flat, axes, _outputs=["mean"])
    deviation = op.Sub(flat, op.Unsqueeze(mean, axes))
    return mean, op.ReduceMean(op.Pow(deviation, 2.0), axes, _outputs=["variance"])


def check_spatial(_: object, x: ir.Value, shape: ir.Value, axes: ir.Value, **__: ir.Value) -> MatchResult:
    """Check that the statistics are over all spatial axes of x, and that their sizes are static."""
    result = MatchResult()
    flat, reduced = constant(shape), constant(axes)
    channels, *spatial = dims(x)[1:] or [None]
    if not spatial or None in (channels, *spatial):
        return result.fail(f"{x.name} has the shape {x.shape}, expected static channels and spatial axes")
    size = int(np.prod(spatial))  # type: ignore[arg-type]
    if flat is None or reduced is None or flat.tolist()[1:] != [channels, size] or reduced.tolist() != [2]:
        return result.fail(f"{x.name} is not flattened to (N, C, S) and reduced over S")
    return result
