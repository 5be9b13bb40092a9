"""Builds `drift.onnx`, which measures how far a sample's statistics are from those of clean data.

For the input z, (N, C, *S), of each adaptive layer, a sample has the 2C statistics s = [mean(z), sqrt(var(z) + eps)]
over S. With m and d their mean and standard deviation over clean data, drift = sqrt(mean_j(((s_j - m_j) / d_j)^2)).
"""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray

from abnn_serve.arrays import batch_slices
from abnn_serve.card import Drift
from abnn_serve.errors import ExportError
from abnn_serve.hardware import usable_cores
from abnn_serve.lab.abnn.adaptive_norm import EPS
from abnn_serve.runtime.engine import max_batch, open_graph
from abnn_serve.runtime.rewrites.values import dims

_CHECKED, _TOLERANCE = 4, 1e-2  # images on which the new graph is checked, and the relative tolerance
_MIN_DEVIATION = 1e-6  # for channels that are constant over the clean images


def record_drift(model: bytes, images: NDArray[np.uint8]) -> tuple[bytes, Drift] | None:
    """Record the statistics of clean images.

    Args:
        model: serialised graph, from `export_graph`.
        images: clean images, uint8 (n, [T,] H, W, 3).

    Returns:
        The content of `drift.onnx` and the distribution of drift over the images, for the card; None if the graph has
        no adaptive layer.

    Raises:
        ExportError: the new graph does not reproduce the recorded drift.
    """
    widths, graph = _drift_nodes(model)
    if not widths:
        return None
    session = open_graph(model + graph, usable_cores())
    name, size = session.get_inputs()[0].name, max_batch(images.shape[1] if images.ndim == 5 else 1)
    codes = np.concatenate([session.run(["codes"], {name: images[b]})[0] for b in batch_slices(len(images), size)])
    center, deviation = codes.mean(axis=0), np.maximum(codes.std(axis=0), _MIN_DEVIATION)
    _, graph = _drift_nodes(model, center, deviation)
    drift = np.sqrt(np.square((codes - center) / deviation) @ _averages(widths)).mean(axis=1)
    session = open_graph(model + graph, usable_cores())
    checked = session.run(["drift"], {name: images[:_CHECKED]})[0].mean(axis=1)
    if not np.allclose(checked, drift[:_CHECKED], rtol=_TOLERANCE):
        raise ExportError(f"drift.onnx gives {checked[0]:.4g} for the first image, expected {drift[0]:.4g}")
    median, p95, p99 = np.quantile(drift, (0.5, 0.95, 0.99)).tolist()
    return graph, Drift(images=len(images), layers=len(widths), median=median, p95=p95, p99=p99)


def _drift_nodes(
    model: bytes, center: NDArray[np.float32] | None = None, deviation: NDArray[np.float32] | None = None
) -> tuple[list[int], bytes]:
    """Channels of the adaptive layers, and the nodes to add to the graph.

    The nodes compute `drift`, or the statistics as `codes` if there is no `center` yet.
    """
    before = onnx.load_from_string(model)
    extended = ir.serde.deserialize_model(before)
    inputs = _adaptive_inputs(extended.graph)
    widths = [channels for z in inputs if (channels := dims(z)[1]) is not None]
    if not inputs:
        return [], b""
    tape = ir.tape.Tape(extended.graph)
    eps = tape.initializer(ir.tensor(np.asarray([EPS], np.float32)), name="drift.eps")
    parts: list[ir.Value] = []
    for z in inputs:
        mean, square = (
            tape.op("Flatten", [tape.op("GlobalAveragePool", [value])]) for value in (z, tape.op("Mul", [z, z]))
        )
        variance = tape.op("Relu", [tape.op("Sub", [square, tape.op("Mul", [mean, mean])])])
        parts += [mean, tape.op("Sqrt", [tape.op("Add", [variance, eps])])]
    codes = tape.op("Concat", parts, {"axis": 1})
    if center is None or deviation is None:
        output, size = codes, 2 * sum(widths)
        output.name = "codes"
    else:
        constants = {"center": center, "scale": 1 / deviation, "mean_by_layer": _averages(widths)}
        middle, scale, average = (tape.initializer(ir.tensor(v), name=f"drift.{k}") for k, v in constants.items())
        score = tape.op("Mul", [tape.op("Sub", [codes, middle]), scale])
        output, size = tape.op("Sqrt", [tape.op("MatMul", [tape.op("Mul", [score, score]), average])]), len(widths)
        output.name = "drift"
    output.shape, output.type = ir.Shape(["batch", size]), ir.TensorType(ir.DataType.FLOAT)
    extended.graph.outputs.append(output)
    after = ir.serde.serialize_model(extended).graph
    old = {tensor.name for tensor in before.graph.initializer}
    addition = onnx.ModelProto()
    addition.graph.node.extend(after.node[len(before.graph.node) :])
    addition.graph.initializer.extend(tensor for tensor in after.initializer if tensor.name not in old)
    addition.graph.output.append(after.output[-1])
    return widths, addition.SerializeToString()


def _adaptive_inputs(graph: ir.Graph) -> list[ir.Value]:
    """The input of every adaptive layer."""
    return [z for node in graph if (z := _adaptive_input(node)) is not None]


def _adaptive_input(node: ir.Node) -> ir.Value | None:
    """The input of the adaptive layer that this node belongs to; None for other nodes.

    After the pass `adaptive`, it is the input of a Reshape before InstanceNormalization. In the conditional form it is
    the factor of gamma; a fixed affine map of each channel, which does not change the drift, may lie between them.
    """
    first, second = (*node.inputs, None, None)[:2]
    computed = second.producer() if second is not None else None
    if computed is None or first is None:
        return None
    if node.op_type == "Mul":
        return first if computed.op_type == "Unsqueeze" else None
    rows = first.producer() if node.op_type == "InstanceNormalization" else None
    return rows.inputs[0] if rows is not None and rows.op_type == "Reshape" else None


def _averages(widths: list[int]) -> NDArray[np.float32]:
    """Matrix (sum of 2C, layers) that averages over the 2C statistics of each layer."""
    columns = np.repeat(np.arange(len(widths)), [2 * width for width in widths])
    return (np.eye(len(widths), dtype=np.float32) / (2 * np.asarray(widths, np.float32)))[columns]
