"""Parsers for option values: surgery plans, video sampling and required minimums."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
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


def read_minimums(texts: Sequence[str]) -> list[tuple[str, float]]:
    """Parse texts such as `whitebox>=0.30` to names of figures and shares in [0, 1]."""
    minimums = []
    for text in texts:
        match = re.fullmatch(r"\s*([a-z-]+)\s*>=\s*(0|1|[01]?\.[0-9]+)\s*", text)
        if not match or not float(match[2]) <= 1:
            raise ConfigError(
                f"--require is {text!r}, expected THREAT>=SHARE, clean>=SHARE or corruptions>=SHARE, "
                "such as 'whitebox>=0.30'"
            )
        minimums.append((match[1], float(match[2])))
    return minimums
