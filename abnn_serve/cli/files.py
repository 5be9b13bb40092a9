"""Files that commands read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from abnn_serve.codec import from_json
from abnn_serve.errors import SurgeryError

if TYPE_CHECKING:
    from abnn_serve.lab.pairing import SurgeryPlan


def read_plan(path: Path) -> SurgeryPlan:
    """A surgery plan from a JSON file."""
    from abnn_serve.lab.pairing import SurgeryPlan

    try:
        value = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise SurgeryError(f"{path}: not a readable JSON file ({error})") from error
    return from_json(SurgeryPlan, value, str(path), SurgeryError)
