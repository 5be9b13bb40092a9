"""Settings of a recipe from texts such as `cutout=8`."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import fields, replace
from typing import Any

from abnn_serve.errors import ConfigError
from abnn_serve.lab.training.recipe import Recipe


def with_settings(recipe: Recipe, settings: Iterable[str]) -> Recipe:
    """Set fields of `recipe` from texts such as `cutout=8`; ConfigError for an unknown field or a wrong value."""
    kinds = {field.name: str(field.type) for field in fields(Recipe) if field.name not in _FIXED}
    values: dict[str, Any] = {}
    for setting in settings:
        name, _, text = setting.partition("=")
        if name not in kinds:
            raise ConfigError(f"a recipe has no setting {name!r}, expected one of {', '.join(kinds)}")
        try:
            values[name] = _PARSERS[kinds[name]](text)
        except (ValueError, KeyError):
            raise ConfigError(f"{name} is {text!r}, expected {name}=VALUE with {_EXPECTED[kinds[name]]}") from None
    return replace(recipe, **values)


_FIXED = frozenset({"name", "summary", "adaptive", "fine_tunes", "restored"})
_PARSERS: dict[str, Any] = {
    "int": int,
    "float": float,
    "float | None": float,
    "bool": {"true": True, "false": False}.__getitem__,
    "Trained": str,
    "Optimizer": str,
    "Start": str,
    "AttackLoss": str,
    "Images": str,
}
_EXPECTED = {
    "int": "a whole number",
    "float": "a number",
    "float | None": "a number",
    "bool": "true or false",
    "Trained": "a part of the network",
    "Optimizer": "a name",
    "Start": "a name",
    "AttackLoss": "a name",
    "Images": "a name",
}
