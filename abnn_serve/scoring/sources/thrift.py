"""Reads structs in Thrift's compact protocol, as Parquet's page headers are written."""

from __future__ import annotations

import struct
from typing import Any


def read_struct(data: bytes, at: int, depth: int = 0) -> tuple[dict[int, Any], int]:
    """The fields of a struct in Thrift's compact protocol, and where it ends; raises IndexError if it is cut off."""
    if depth > 8:
        raise OSError("the struct is nested too deeply")
    fields: dict[int, Any] = {}
    number = 0
    while kind := data[at]:
        at += 1
        if kind >> 4:
            number += kind >> 4
        else:
            number, at = _zigzag(data, at)
        fields[number], at = _read_value(data, at, kind & 15, depth)
    return fields, at + 1


def _read_value(data: bytes, at: int, kind: int, depth: int) -> tuple[Any, int]:
    if kind in (1, 2):  # true and false
        return kind == 1, at
    if kind in (4, 5, 6):
        return _zigzag(data, at)
    if kind == 12:
        return read_struct(data, at, depth + 1)
    if kind == 8:
        size, at = _varint(data, at)
    elif kind in (3, 7):
        size = 1 if kind == 3 else struct.calcsize("d")
    else:
        raise OSError(f"the struct has a field of type {kind}, expected none")
    data[at + size - 1 : at + size][0]  # fails where the value is cut off
    return None, at + size


def _zigzag(data: bytes, at: int) -> tuple[int, int]:
    value, at = _varint(data, at)
    return (value >> 1) ^ -(value & 1), at


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 127) << shift
        at, shift = at + 1, shift + 7
        if byte < 128:
            return value, at
        if shift > 63:
            raise OSError("the struct has a number of over 64 bits")
