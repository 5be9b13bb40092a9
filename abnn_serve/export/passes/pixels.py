"""Folds the divisions of the pixel normalisation into the first convolution.

    conv(W, (x / a - m) / s) = conv(W / (a s), x - a m)      (s and m by input channel)

The subtraction stays: the convolution's zero padding comes after it, so it could not be folded at the borders.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
from onnxscript.rewriter import MatchResult, RewriteRule

from abnn_serve.export.passes.rules import apply_rules
from abnn_serve.runtime.rewrites.values import constant, constants


def _pattern(op: Any, x: Any, a: Any, mean: Any, std: Any, weight: Any) -> Any:
    normalised = op.Div(op.Sub(op.Div(x, a), mean), std)
    return op.Conv(normalised, weight, _allow_other_inputs=True, _outputs=["convolved"])


def _check(_: Any, a: ir.Value, mean: ir.Value, std: ir.Value, weight: ir.Value, **__: Any) -> MatchResult:
    result = MatchResult()
    numbers = constants(a, mean, std, weight)
    if numbers is None:
        return result.fail("a factor is computed, expected a constant")
    level, center, scale, kernel = numbers
    by_channel = (1, kernel.shape[1], *(1,) * (kernel.ndim - 2))
    if level.size != 1 or center.shape != by_channel or scale.shape != by_channel:
        return result.fail(f"mean and std do not have the shape {by_channel}")
    return result


def _rewrite(
    op: Any, x: ir.Value, a: ir.Value, mean: ir.Value, std: ir.Value, weight: ir.Value, convolved: ir.Value
) -> Any:
    level, center, scale, kernel = (np.asarray(constant(v), np.float64) for v in (a, mean, std, weight))
    shift = op.initializer(ir.tensor((level * center).astype(np.float32)), name=f"{weight.name}.shift")
    scaled = op.initializer(ir.tensor((kernel / (level * scale)).astype(np.float32)), name=f"{weight.name}.scaled")
    node = convolved.producer()
    assert node is not None  # noqa: S101
    return op.Conv(op.Sub(x, shift), scaled, *node.inputs[2:], **node.attributes)


def fold_pixel_scale(model: ir.Model) -> None:
    """Rewrite every convolution of normalised pixels, in place."""
    apply_rules(
        model, RewriteRule(_pattern, _rewrite, _check, remove_nodes=False)
    )  # both networks may read the same pixels
