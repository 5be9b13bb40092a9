"""Values of a graph: constants, shapes, readers, and the chains of nodes that compute them."""

from __future__ import annotations

from typing import Any

import onnx_ir as ir
from numpy.typing import NDArray
from onnx_ir.passes.common import (
    CommonSubexpressionEliminationPass,
    DeduplicateInitializersPass,
    RemoveUnusedNodesPass,
)

MAX_INPUTS = 32  # ONNX Runtime captures no larger Concat into a CUDA graph


def tidy(model: ir.Model) -> None:
    """Remove duplicate and unused nodes and initialisers."""
    DeduplicateInitializersPass()(model)
    CommonSubexpressionEliminationPass()(model)
    RemoveUnusedNodesPass()(model)


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


def concatenate(tape: ir.tape.Tape, values: list[ir.Value]) -> ir.Value:
    """Concatenate along axis 1, by Concats of at most MAX_INPUTS."""
    while len(values) > MAX_INPUTS:
        pieces = [values[start : start + MAX_INPUTS] for start in range(0, len(values), MAX_INPUTS)]
        values = [tape.op("Concat", piece, {"axis": 1}) for piece in pieces]
    joined: ir.Value = tape.op("Concat", values, {"axis": 1})
    return joined
