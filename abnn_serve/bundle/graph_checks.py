"""Checks of an ONNX file before an engine opens it: one self-contained graph of standard operators, without branches.

The bytes are read by the wire format of protobuf alone, because serving does not install the package onnx.
"""

from __future__ import annotations

from collections.abc import Iterator

from abnn_serve.errors import BundleIntegrityError

_STANDARD_DOMAINS = (b"", b"ai.onnx")
_BRANCHES = ("Loop", "If", "Scan", "SequenceMap")
_ORT_FORMAT = b"ORTM"  # at byte 4; ONNX Runtime recognises its own format by it, whatever the file's name
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_MODEL_GRAPH, _MODEL_TRAINING, _MODEL_FUNCTIONS = 7, 20, 25
_NODE_OPERATOR, _NODE_DOMAIN, _NODE_ATTRIBUTE = 4, 7, 5
_ATTRIBUTE_GRAPHS = (6, 11)
_TENSOR_EXTERNAL, _TENSOR_LOCATION = 13, 14
# fields that hold tensors, by message: of a graph, of an attribute, and of a sparse tensor
_GRAPH_NODE, _GRAPH_TENSOR, _GRAPH_SPARSE = 1, 5, 15
_ATTRIBUTE_TENSORS, _ATTRIBUTE_SPARSE = (5, 10), (22, 23)
_SPARSE_TENSORS = (1, 2)
_TAG_MASK = 0xFFFFFFFF  # protobuf keeps 32 bits of a tag

_Value = int | memoryview


def check_graph(data: bytes, where: str) -> None:
    """Check a serialised ModelProto, or an addition to one such as drift.onnx.

    Raises:
        BundleIntegrityError: not a ModelProto, weights outside the file, subgraphs, functions, training steps, or an
            operator of another domain than ONNX's own.
    """
    if data[4:8] == _ORT_FORMAT:
        raise _refused(where, "ONNX Runtime's own format", "an ONNX graph")
    graphs = 0
    for field, value in _fields(memoryview(data), where):
        if field == _MODEL_GRAPH:
            graphs += 1
            _check_nodes(value, where)
        elif field in (_MODEL_TRAINING, _MODEL_FUNCTIONS):
            raise _refused(where, "training steps" if field == _MODEL_TRAINING else "functions", "nodes only")
    if not graphs:
        raise _refused(where, "no graph", "an ONNX graph")


def _check_nodes(graph: _Value, where: str) -> None:
    for field, value in _fields(graph, where):
        if field == _GRAPH_NODE:
            _check_node(value, where)
        elif field == _GRAPH_TENSOR:
            _check_tensor(value, where)
        elif field == _GRAPH_SPARSE:
            _check_sparse(value, where)


def _check_node(node: _Value, where: str) -> None:
    operator = domain = b""
    for field, value in _fields(node, where):
        if field == _NODE_OPERATOR:
            operator = _raw(value, where)
        elif field == _NODE_DOMAIN:
            domain = _raw(value, where)
        elif field == _NODE_ATTRIBUTE:
            _check_attribute(value, where)
    name = operator.decode(errors="replace")
    if domain not in _STANDARD_DOMAINS:
        raise _refused(where, f"the operator {name} of {domain.decode(errors='replace')}", "ONNX's own operators")
    if name in _BRANCHES:
        raise _refused(where, f"the operator {name}", "operators without subgraphs")


def _check_attribute(attribute: _Value, where: str) -> None:
    for field, value in _fields(attribute, where):
        if field in _ATTRIBUTE_GRAPHS:
            raise _refused(where, "a node with a subgraph (Loop, If, Scan)", "operators without subgraphs")
        if field in _ATTRIBUTE_TENSORS:
            _check_tensor(value, where)
        elif field in _ATTRIBUTE_SPARSE:
            _check_sparse(value, where)


def _check_sparse(tensor: _Value, where: str) -> None:
    for field, value in _fields(tensor, where):
        if field in _SPARSE_TENSORS:
            _check_tensor(value, where)


def _check_tensor(tensor: _Value, where: str) -> None:
    for field, value in _fields(tensor, where):
        if field == _TENSOR_EXTERNAL or (field == _TENSOR_LOCATION and value != 0):
            raise _refused(where, "weights outside the file (external data)", "all weights inside it")


def _fields(message: _Value, where: str) -> Iterator[tuple[int, _Value]]:
    """Yield the number and value of each field."""
    if isinstance(message, int):  # a number where the schema has a message
        raise _refused(where, "a damaged graph", "an ONNX graph")
    data, at, end = message, 0, len(message)
    try:
        while at < end:
            tag, at = _varint(data, at)
            field, kind = (tag & _TAG_MASK) >> 3, tag & 7
            if kind == _VARINT:
                value, at = _varint(data, at)
                yield field, value
                continue
            if kind == _BYTES:
                size, at = _varint(data, at)
            else:
                size = {_FIXED64: 8, _FIXED32: 4}[kind]
            at += size
            data[at - 1]  # fails where the value is cut off
            yield field, data[at - size : at]
    except (IndexError, KeyError) as error:
        raise _refused(where, "a damaged graph", "an ONNX graph") from error


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    value = shift = 0
    while shift < 70:
        byte = data[at]
        value |= (byte & 127) << shift
        at += 1
        if byte < 128:
            return value, at
        shift += 7
    raise IndexError


def _raw(value: _Value, where: str) -> bytes:
    if isinstance(value, int):
        raise _refused(where, "a damaged graph", "an ONNX graph")
    return bytes(value)


def _refused(where: str, content: str, expected: str) -> BundleIntegrityError:
    return BundleIntegrityError(f"{where} has {content}, expected {expected}; export the bundle again")
