"""Parsers for option values: surgery plans, video sampling, sizes and budgets."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING

from abnn_serve.codec import from_json
from abnn_serve.errors import ConfigError, SurgeryError
from abnn_serve.spec import Sampling

if TYPE_CHECKING:
    from abnn_serve.lab.abnn.plan import SurgeryPlan


def read_plan(path: Path) -> SurgeryPlan:
    """Read a surgery plan from a JSON file."""
    from abnn_serve.lab.abnn.plan import SurgeryPlan

    try:
        value = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise SurgeryError(f"{path}: not a readable JSON file ({error})") from error
    return from_json(SurgeryPlan, value, str(path), SurgeryError)


def read_sampling(text: str) -> Sampling:
    """Parse a text such as `frames=16,stride=2`; the keys are the fields of `Sampling`."""
    values: dict[str, object] = {}
    for setting in text.split(","):
        name, _, value = setting.partition("=")
        number = float(value) if value.replace(".", "", 1).isdecimal() else None
        values[name.strip()] = value if number is None else int(number) if number.is_integer() else number
    return from_json(Sampling, values, "--sampling", ConfigError)


def read_size(text: str) -> tuple[int, int]:
    """Parse `224`, or height and width such as `224x320`, in pixels."""
    match = re.fullmatch(r"(\d{1,4})(?:x(\d{1,4}))?", text)
    if not match:
        raise ConfigError(f"--size is {text!r}, expected pixels such as 224, or height and width such as 224x320")
    return int(match[1]), int(match[2] or match[1])


def read_eps(text: str) -> float:
    """Parse a number from 0 to 1, or a fraction such as `8/255`."""
    numerator, _, denominator = text.partition("/")
    try:
        eps = float(numerator) / float(denominator or 1)
    except (ValueError, ZeroDivisionError):
        raise ConfigError(f"--eps is {text!r}, expected a number or a fraction, such as 8/255") from None
    if not 0 <= eps <= 1:
        raise ConfigError(f"--eps is {text}, expected a budget from 0 to 1, in units of [0, 1] pixels, such as 8/255")
    return eps
