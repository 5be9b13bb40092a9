"""Joins the codes of all taps: computes them in one go and splits the result.

    for each tap i:  code_i = [m_i, sqrt(max(q_i - m_i^2, 0) + eps)] - center_i
      = split(where(mean?, A, sqrt(max(A - B^2, 0) + eps)) - [center_1, center_2 ...])
      with A = [m_1, q_1, m_2 ...] and B = [m_1, m_1, m_2 ...]

where m and q are the means of y and y * y. For n taps, 9 n small nodes become 12. This pays at 32 px, where a
convolution takes tens of microseconds, so the number of nodes dominates.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from onnx_ir.passes.common import TopologicalSortPass

from abnn_serve.runtime.rewrites.values import chain_up, concatenate, constant, dims, tidy


@dataclass(frozen=True)
class _Code:
    """The code of a tap y.

    Attributes:
        mean, square: means of y and of y * y, (N, K, 1, 1).
        width: K.
        center: subtracted from the code, (2K,).
        code: the centred code, (N, 2K).
    """

    mean: ir.Value
    square: ir.Value
    width: int
    eps: float
    center: NDArray[np.float32]
    code: ir.Value


def join_codes(model: ir.Model) -> None:
    """Rewrite the codes that do not depend on other codes, in place."""
    codes = [code for node in model.graph if (code := _match(node))]
    values = {code.code for code in codes}
    codes = [code for code in codes if not _depends_on(code.mean, values) and code.eps == codes[0].eps]
    if len(codes) > 1:
        _join(model, sorted(codes, key=lambda code: code.width))
        TopologicalSortPass()(model)
    tidy(model)


def _match(node: ir.Node) -> _Code | None:
    """The code that this node computes as Concat(m, Sqrt(Add(Relu(Sub(q, Mul(m, m))), eps))); None for other nodes."""
    if node.op_type != "Concat" or len(node.inputs) != 2:
        return None
    mean, deviation = node.inputs
    chain = chain_up(deviation, "Sqrt", "Add", "Relu", "Sub")
    if mean is None or chain is None:
        return None
    _, add, _, difference = chain
    pooled, square = (
        chain_up(mean, "Flatten", "GlobalAveragePool"),
        chain_up(difference.inputs[0], "Flatten", "GlobalAveragePool"),
    )
    product = chain_up(difference.inputs[1], "Mul")
    eps = constant(add.inputs[1])
    if not pooled or not square or not product or eps is None or eps.size != 1:
        return None
    first, second, y = pooled[0].inputs[0], square[0].inputs[0], pooled[1].inputs[0]
    width = dims(y)[1] if y is not None and len(dims(y)) > 1 else None
    if first is None or second is None or width is None or any(value is not mean for value in product[0].inputs):
        return None
    return _Code(first, second, width, float(eps.item()), *_centred(node.outputs[0], 2 * width))


def _centred(code: ir.Value, size: int) -> tuple[NDArray[np.float32], ir.Value]:
    """The constant that a code's only reader subtracts, and the difference; otherwise zeros and the code itself."""
    readers = [use.node for use in code.uses()]
    center = constant(readers[0].inputs[1]) if len(readers) == 1 and readers[0].op_type == "Sub" else None
    if center is None or center.shape != (size,):
        return np.zeros(size, np.float32), code
    return center, readers[0].outputs[0]


def _depends_on(value: ir.Value, sources: set[ir.Value]) -> bool:
    visited, pending = set(), [value]
    while pending:
        value = pending.pop()
        if value in sources:
            return True
        node = value.producer()
        if node is not None and node not in visited:
            visited.add(node)
            pending.extend(source for source in node.inputs if source is not None)
    return False


def _join(model: ir.Model, codes: list[_Code]) -> None:
    tape = ir.tape.Tape(model.graph)
    widths = [code.width for code in codes]
    mask = np.concatenate([np.arange(2 * width) < width for width in widths])
    is_mean = tape.initializer(ir.tensor(mask), name="codes.is_mean")
    eps = tape.initializer(ir.tensor(np.asarray([codes[0].eps], np.float32)), name="codes.eps")
    sizes = tape.initializer(ir.tensor(np.asarray([2 * width for width in widths], np.int64)), name="codes.sizes")

    pairs = [value for code in codes for value in (code.mean, code.square)]
    moments = tape.op("Flatten", [concatenate(tape, pairs)])
    means = tape.op("Flatten", [concatenate(tape, [code.mean for code in codes for _ in range(2)])])
    variance = tape.op("Relu", [tape.op("Sub", [moments, tape.op("Mul", [means, means])])])
    deviation = tape.op("Sqrt", [tape.op("Add", [variance, eps])])
    centers = tape.initializer(ir.tensor(np.concatenate([code.center for code in codes])), name="codes.centers")
    joined = tape.op("Sub", [tape.op("Where", [is_mean, moments, deviation]), centers])
    parts = tape.op_multi_out("Split", [joined, sizes], {"axis": 1}, num_outputs=len(codes))
    for code, part in zip(codes, parts, strict=True):
        part.shape, part.type = code.code.shape, code.code.type
        ir.convenience.replace_all_uses_with(code.code, part)
