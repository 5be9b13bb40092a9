"""Converts frozen dataclasses to JSON and back; unknown keys, missing keys and wrong types are errors.

BentoML pins cattrs below the release with strict structuring, and pydantic coerces values, so neither can be used.
"""

from __future__ import annotations

import json
import types
from dataclasses import MISSING, fields, is_dataclass
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from abnn_serve.errors import AbnnError

T = TypeVar("T")

OMITTED_IF_NONE = {"omitted_if_none": True}  # field metadata; keeps files readable by versions without the field


class _MismatchError(Exception):
    """A value that does not match its type; the message names its location."""


def to_json(value: Any) -> dict[str, Any]:
    """Convert a dataclass to JSON values; tuples become lists, and OMITTED_IF_NONE fields that are None are omitted."""
    return dict(json.loads(json.dumps(_plain(value), allow_nan=False)))


def from_json(kind: type[T], value: Any, where: str, error: type[AbnnError]) -> T:
    """Convert JSON values to the dataclass `kind`.

    Args:
        kind: the dataclass.
        value: JSON values, as `json.loads` returns them.
        where: name of the value in error messages, for example a file name.
        error: class of the error that is raised if the value does not match.
    """
    try:
        result: T = _structure(kind, value, where)
    except _MismatchError as problem:
        raise error(str(problem)) from None
    return result


def _plain(value: Any) -> Any:
    if is_dataclass(value):
        kept = [f for f in fields(value) if f.metadata != OMITTED_IF_NONE or getattr(value, f.name) is not None]
        return {f.name: _plain(getattr(value, f.name)) for f in kept}
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, (list, tuple)) else value


def canonical(value: Any) -> bytes:
    """Canonical bytes of a JSON value: sorted keys, two-space indent, UTF-8, trailing newline."""
    text = json.dumps(value, sort_keys=True, indent=2, ensure_ascii=False, allow_nan=False)
    return (text + "\n").encode()


def _structure(kind: Any, value: Any, where: str) -> Any:
    origin, inner = get_origin(kind), get_args(kind)
    if kind is Any:
        return value
    if origin in (Union, types.UnionType):
        types_but_none = [part for part in inner if part is not type(None)]
        if value is None and len(types_but_none) < len(inner):
            return None
        if len(types_but_none) > 1:  # scalars, whose JSON types differ
            expected = " or ".join(f"a {_JSON_NAMES[part]}" for part in types_but_none)
            return value if type(value) in types_but_none else _mismatch(where, value, expected)
        return _structure(types_but_none[0], value, where)
    if origin is Literal:
        return value if value in inner else _mismatch(where, value, f"one of {', '.join(map(str, inner))}")
    if origin is tuple:
        return _tuple(inner, value, where)
    if origin is dict:
        entries = _expect(dict, value, where).items()
        return {
            _structure(inner[0], key, f"{where}'s key"): _structure(inner[1], item, f"{where}.{key}")
            for key, item in entries
        }
    if is_dataclass(kind):
        return _dataclass(kind, _expect(dict, value, where), where)
    if kind is float and type(value) is int:
        return float(value)
    return _expect(kind, value, where)


def _tuple(inner: tuple[Any, ...], value: Any, where: str) -> tuple[Any, ...]:
    items = _expect(list, value, where)
    kinds = [inner[0]] * len(items) if inner[1:] == (...,) else list(inner)
    if len(kinds) != len(items):
        _mismatch(where, value, f"{len(kinds)} items")
    return tuple(_structure(k, item, f"{where}[{i}]") for i, (k, item) in enumerate(zip(kinds, items, strict=True)))


def _dataclass(kind: Any, value: dict[str, Any], where: str) -> Any:
    hints = get_type_hints(kind)
    if unknown := sorted(value.keys() - hints.keys()):
        raise _MismatchError(f"{where}: unknown key {unknown[0]!r}, expected {', '.join(hints)}")
    required = [f.name for f in fields(kind) if f.default is MISSING and f.default_factory is MISSING]
    if missing := [name for name in required if name not in value]:
        raise _MismatchError(f"{where}: key {missing[0]!r} is missing")
    parts = {name: _structure(hints[name], item, f"{where}.{name}") for name, item in value.items()}
    try:
        return kind(**parts)
    except AbnnError as problem:
        raise _MismatchError(f"{where}: {problem}") from problem


def _expect(kind: Any, value: Any, where: str) -> Any:
    return value if type(value) is kind else _mismatch(where, value, f"a JSON {_JSON_NAMES[kind]}")


_JSON_NAMES = {dict: "object", list: "array", str: "string", int: "whole number", float: "number", bool: "boolean"}


def _mismatch(where: str, value: Any, expected: str) -> Any:
    text = repr(value)
    raise _MismatchError(f"{where} is {text if len(text) <= 60 else text[:57] + '...'}, expected {expected}")
