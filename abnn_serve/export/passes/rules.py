"""What the rules share: the statistics' subgraph as torch exports it, and reading constants and shapes."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from onnx_ir.passes.common import (
    CommonSubexpressionEliminationPass,
    DeduplicateInitializersPass,
    RemoveUnusedNodesPass,
)
from onnxscript.rewriter import MatchResult, RewritePass, RewriteRule


def apply_rules(model: ir.Model, *rules: RewriteRule) -> None:
    """Rewrite until nothing matches, and tidy up."""
    RewritePass(rules)(model)
    tidy(model)


def tidy(model: ir.Model) -> None:
    """Drop what is computed twice and what nothing uses."""
    DeduplicateInitializersPass()(model)
    CommonSubexpressionEliminationPass()(model)
    RemoveUnusedNodesPass()(model)


def spatial_statistics(op: Any, x: Any, shape: Any, axes: Any) -> tuple[Any, Any]:
    """Mean and biased variance over the spatial axes of x, (N, C, *S), as `channel_statistics` is exported."""
    flat = op.Reshape(x, shape)
    mean = op.ReduceMean(flat, axes, _outputs=["mean"])
    deviation = op.Sub(flat, op.Unsqueeze(mean, axes))
    return mean, op.ReduceMean(op.Pow(deviation, 2.0), axes, _outputs=["variance"])


def check_spatial(_: object, x: ir.Value, shape: ir.Value, axes: ir.Value, **__: ir.Value) -> MatchResult:
    """That the statistics are over all axes but batch and channels, of a known size."""
    result = MatchResult()
    wanted, reduced = constant(shape), constant(axes)
    dimensions = known(x)[1:]
    if None in dimensions or len(dimensions) < 2:
        return result.fail(f"{x.name} has the shape {x.shape}, expected known channels and spatial axes")
    size = int(np.prod(dimensions[1:]))  # type: ignore[arg-type]
    if wanted is None or reduced is None or wanted.tolist()[1:] != [dimensions[0], size] or reduced.tolist() != [2]:
        return result.fail(f"{x.name} is not flattened to (N, C, S) and reduced over S")
    return result


def only_reader(value: ir.Value) -> ir.Node | None:
    """The one node that reads a value; None where there are more, or none."""
    uses = list(value.uses())
    return uses[0].node if len(uses) == 1 else None


def add_constant(graph: ir.Graph, name: str, numbers: NDArray[Any]) -> ir.Value:
    """An initialiser of its own in a graph."""
    value = ir.Value(name=name, const_value=ir.tensor(numbers))
    value.shape, value.dtype = ir.Shape(numbers.shape), ir.DataType.from_numpy(numbers.dtype)
    graph.register_initializer(value)
    return value


def constant(value: ir.Value | None) -> NDArray[Any] | None:
    """The numbers of an initialiser; None for a computed value."""
    tensor = ir.convenience.get_const_tensor(value) if value is not None else None
    return None if tensor is None else tensor.numpy()


def constants(*values: ir.Value) -> list[NDArray[Any]] | None:
    """The numbers of initialisers; None if one is computed."""
    found = [numbers for value in values if (numbers := constant(value)) is not None]
    return found if len(found) == len(values) else None


def known(x: ir.Value) -> list[int | None]:
    """Dimensions of a value, None where they are dynamic; empty where nothing is known."""
    return [] if x.shape is None else [d if isinstance(d, int) else None for d in x.shape]
