"""What every benchmark writes beside its figures, and the bars it is held against."""

from __future__ import annotations

import datetime as dt
import importlib.metadata
import json
import re
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from abnn_serve.errors import DeviceError, one_line
from abnn_serve.hardware import describe_cpu, usable_cores

_PACKAGES = (
    "torch", "onnxruntime", "onnxruntime-gpu", "openvino", "numpy", "av", "ray",
    "bentoml", "litserve", "uvicorn", "httptools", "uvloop",
)  # fmt: skip


Sum = tuple[str, ...]  # of the medians of these cases


@dataclass(frozen=True, kw_only=True)
class Bar:
    """A ratio and its limit; `least` turns it round.

    `over` and `under` name sums of medians, each in the ways in which they can be had: the fastest that was measured
    counts.
    """

    what: str
    setting: str
    over: tuple[Sum, ...]
    under: tuple[Sum, ...]
    limit: float
    least: bool = False

    def ratio(self, medians: dict[str, float]) -> float:
        """The measured ratio."""
        return min(sums(self.over, medians)) / min(sums(self.under, medians))

    def was_measured(self, medians: dict[str, float]) -> bool:
        """Whether there is one."""
        return bool(sums(self.over, medians) and sums(self.under, medians))

    def holds(self, ratio: float) -> bool:
        """Whether a ratio is on the right side of the limit."""
        return ratio >= self.limit if self.least else ratio <= self.limit


def sums(ways: Iterable[Sum], medians: dict[str, float]) -> list[float]:
    """Those of the sums whose cases were all measured."""
    return [sum(medians[name] for name in names) for names in ways if set(names) <= medians.keys()]


def print_bars(bars: Iterable[Bar], medians: dict[str, dict[str, float]]) -> int:
    """Print those bars whose cases were measured; how many were missed."""
    missed = 0
    print(f"\n{'what':<38} {'input':<11} {'measured':>8} {'bar':>8}")
    for bar in _measured(bars, medians):
        ratio = bar.ratio(medians[bar.setting])
        missed += not bar.holds(ratio)
        sign, verdict = (">=", "<=")[not bar.least], "" if bar.holds(ratio) else "  MISSED"
        print(f"{bar.what:<38} {bar.setting:<11} {ratio:8.3f} {sign}{bar.limit:6.2f}{verdict}")
    return missed


def bar_records(bars: Iterable[Bar], medians: dict[str, dict[str, float]]) -> list[dict[str, Any]]:
    """The same as plain values."""
    return [
        {"what": b.what, "input": b.setting, "limit": b.limit, "measured": b.ratio(medians[b.setting])}
        for b in _measured(bars, medians)
    ]


def _measured(bars: Iterable[Bar], medians: dict[str, dict[str, float]]) -> list[Bar]:
    return [bar for bar in bars if bar.was_measured(medians.get(bar.setting, {}))]


def write_record(path: Path, settings: dict[str, Any], **figures: Any) -> None:
    """A dated JSON file: hardware, versions, settings (paths by their names alone) and figures."""
    installed = {d.metadata["Name"]: d.version for name in _PACKAGES for d in _distributions(name)}
    record = {
        "date": dt.datetime.now(tz=dt.UTC).date().isoformat(),
        "hardware": describe_cpu(),
        "cores": usable_cores(),
        "versions": installed,
        "settings": {name: value.name if isinstance(value, Path) else value for name, value in settings.items()},
        **figures,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(_on_few_lines(json.dumps(_rounded(record), indent=1)) + "\n")


def device_of(device: str) -> dict[str, str]:
    """For `write_record`: the GPU that a benchmark ran on, by `nvidia-smi`; nothing for the CPU."""
    if device == "cpu":
        return {}
    command = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
    try:
        text = subprocess.run(command, capture_output=True, text=True, check=True).stdout  # noqa: S603
    except (OSError, subprocess.CalledProcessError) as error:
        raise DeviceError(f"nvidia-smi does not name the GPU: {one_line(error)}; install it with the driver") from error
    return {"gpu": text.splitlines()[0].strip()}


def _rounded(value: Any) -> Any:
    """Floats to six significant digits: no clock gives more."""
    if isinstance(value, float):
        return float(f"{value:.6g}")
    if isinstance(value, dict):
        return {key: _rounded(entry) for key, entry in value.items()}
    return [_rounded(entry) for entry in value] if isinstance(value, list | tuple) else value


def _on_few_lines(text: str) -> str:
    """Lists of numbers on one line each."""
    return re.sub(
        r"\[[-+.\deE,\s]+\]", lambda found: " ".join(found[0].split()).replace("[ ", "[").replace(" ]", "]"), text
    )


def _distributions(name: str) -> list[importlib.metadata.Distribution]:
    return list(importlib.metadata.distributions(name=name))[:1]
