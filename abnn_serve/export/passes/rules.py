"""Helpers of the passes: applying rules, the subgraph of the statistics, constants and shapes."""

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
    """Apply rewrite rules until none matches, then `tidy`."""
    RewritePass(rules)(model)
    tidy(model)


def tidy(model: ir.Model) -> None:
    """Remove duplicate and unused nodes and initialisers."""
    DeduplicateInitializersPass()(model)
    CommonSubexpressionEliminationPass()(model)
    RemoveUnusedNodesPass()(model)


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


def only_reader(value: ir.Value) -> ir.Node | None:
    """The node that reads a value; None if several do, or none."""
    uses = list(value.uses())
    return uses[0].node if len(uses) == 1 else None


def chain_up(value: ir.Value | None, *kinds: str) -> list[ir.Node] | None:
    """The chain of nodes of these kinds that computes a value, last node first; None if it is another chain."""
    nodes = []
    for kind in kinds:
        node = value.producer() if value is not None else None
        if node is None or node.op_type != kind:
            return None
        nodes.append(node)
        value = node.inputs[0]
    return nodes


def add_constant(graph: ir.Graph, name: str, numbers: NDArray[Any]) -> ir.Value:
    """Add an initialiser to a graph."""
    value = ir.Value(name=name, const_value=ir.tensor(numbers))
    value.shape, value.dtype = ir.Shape(numbers.shape), ir.DataType.from_numpy(numbers.dtype)
    graph.register_initializer(value)
    return value


def constant(value: ir.Value | None) -> NDArray[Any] | None:
    """The content of an initialiser; None if the value is computed."""
    tensor = ir.convenience.get_const_tensor(value) if value is not None else None
    return None if tensor is None else tensor.numpy()


def constants(*values: ir.Value) -> list[NDArray[Any]] | None:
    """The contents of initialisers; None if any value is computed."""
    arrays = [numbers for value in values if (numbers := constant(value)) is not None]
    return arrays if len(arrays) == len(values) else None


def dims(x: ir.Value) -> list[int | None]:
    """The shape of a value, with None for dynamic dimensions; empty if the rank is unknown."""
    return [] if x.shape is None else [d if isinstance(d, int) else None for d in x.shape]
