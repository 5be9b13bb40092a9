"""Bars, and the JSON file that a benchmark writes."""

from __future__ import annotations

import datetime as dt
import importlib.metadata
import json
import re
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from abnn_serve.errors import DeviceError, one_line
from abnn_serve.hardware import describe_cpu, usable_cores

_PACKAGES = (
    "torch", "onnxruntime", "onnxruntime-gpu", "openvino", "numpy", "av", "ray",
    "bentoml", "litserve", "uvicorn", "httptools", "uvloop",
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Bar:
    """A measured value and the limit that it must keep.

    Attributes:
        name: what is measured, with its unit.
        value: the measurement; None if it was not taken, in which case the bar passes.
        limit: the worst value that passes.
        better: whether smaller or larger values pass.
        setting: the input's shape, or what else the value depends on.
    """

    name: str
    value: float | None
    limit: float
    better: Literal["smaller", "larger"] = "smaller"
    setting: str = ""

    @property
    def passed(self) -> bool:
        """Whether the value keeps the limit."""
        if self.value is None:
            return True
        return self.value >= self.limit if self.better == "larger" else self.value <= self.limit

    def record(self) -> dict[str, Any]:
        """The bar as it stands in a results file."""
        fields = {"what": self.name, "input": self.setting, "limit": self.limit, "better": self.better}
        return {**fields, "measured": self.value}

    def __str__(self) -> str:
        measured = "not measured" if self.value is None else f"{self.value:.4g}"
        verdict = "" if self.value is None else "passed" if self.passed else "MISSED"
        sign = ">=" if self.better == "larger" else "<="
        return f"{self.name:<48} {self.setting:<12} {measured:>12}  {sign} {self.limit:<8.4g} {verdict}".rstrip()


def print_bars(bars: Iterable[Bar]) -> None:
    """Print a table of bars; nothing if there are none."""
    lines = [str(bar) for bar in bars]
    if lines:
        print("\n".join([f"\n{'bar':<48} {'setting':<12} {'measured':>12}  limit", *lines]))


def write_record(out: Path, settings: dict[str, Any], bars: Iterable[Bar] = (), **figures: Any) -> None:
    """Write date, hardware, versions, settings, bars and figures to `out` with the suffix .json.

    Settings that are paths are reduced to their names.
    """
    installed = {d.metadata["Name"]: d.version for name in _PACKAGES for d in _distributions(name)}
    records = [bar.record() for bar in bars]
    record = {
        "date": dt.datetime.now(tz=dt.UTC).date().isoformat(),
        "hardware": describe_cpu(),
        "cores": usable_cores(),
        "versions": installed,
        "settings": {name: value.name if isinstance(value, Path) else value for name, value in settings.items()},
        **({"bars": records} if records else {}),
        **figures,
    }
    path = out.with_suffix(".json")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(_compact_lists(json.dumps(_rounded(record), indent=1)) + "\n")


def gpu_record(device: str) -> dict[str, str]:
    """The field `gpu` of a record, from `nvidia-smi`; no field for the CPU."""
    if device == "cpu":
        return {}
    command = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
    try:
        text = subprocess.run(command, capture_output=True, text=True, check=True).stdout  # noqa: S603
    except (OSError, subprocess.CalledProcessError) as error:
        raise DeviceError(f"nvidia-smi failed: {one_line(error)}; install it with the driver") from error
    return {"gpu": text.splitlines()[0].strip()}


def _rounded(value: Any) -> Any:
    """Floats to six significant digits: no clock gives more."""
    if isinstance(value, float):
        return float(f"{value:.6g}")
    if isinstance(value, dict):
        return {key: _rounded(entry) for key, entry in value.items()}
    return [_rounded(entry) for entry in value] if isinstance(value, list | tuple) else value


def _compact_lists(text: str) -> str:
    """Put each list of numbers on one line."""
    return re.sub(
        r"\[[-+.\deE,\s]+\]", lambda match: " ".join(match[0].split()).replace("[ ", "[").replace(" ]", "]"), text
    )


def _distributions(name: str) -> list[importlib.metadata.Distribution]:
    return list(importlib.metadata.distributions(name=name))[:1]
