"""The opset of a serialised ONNX model, read without the onnx package, which serving does not install."""

from __future__ import annotations

from collections.abc import Iterator

_OPSET_IMPORT, _DOMAIN, _VERSION = 8, 1, 2  # field numbers in onnx.proto: ModelProto, OperatorSetIdProto
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


def graph_opset(model: bytes) -> int | None:
    """Version of the default operator set that a model imports; None where it imports none or is damaged."""
    try:
        for field, value in _fields(memoryview(model)):
            if field == _OPSET_IMPORT and isinstance(value, memoryview):
                parts = dict(_fields(value))
                version = parts.get(_VERSION)
                if not parts.get(_DOMAIN) and isinstance(version, int):
                    return version
    except (IndexError, ValueError):
        pass
    return None


def _fields(data: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """Field numbers and values of one protobuf message; nested messages stay bytes."""
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        kind = key & 7
        if kind == _VARINT:
            value, at = _varint(data, at)
            yield key >> 3, value
            continue
        if kind == _BYTES:
            size, at = _varint(data, at)
        elif kind in (_FIXED64, _FIXED32):
            size = 8 if kind == _FIXED64 else 4
        else:
            raise ValueError(f"wire type {kind}")
        yield key >> 3, data[at : at + size]
        at += size


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            return value, at
