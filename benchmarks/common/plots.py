"""Every figure that the benchmarks draw, from the values in their JSON files to a PNG file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib import color_sequences
from matplotlib.figure import Figure

from benchmarks.common.fits import Line

DPI = 110
_MOST_KERNELS = 9
_THREAT_COLOURS = {"clean": "tab:gray", "graybox": "tab:orange", "transfer": "tab:green", "whitebox": "tab:blue"}


@dataclass(frozen=True, slots=True)
class Point:
    """Accuracy of a network in percent, clean and of `images` images under AutoAttack, and whose figures they are."""

    name: str
    clean: float
    autoattack: float
    images: int
    source: str


def draw_latency(ratios: Mapping[str, Mapping[str, float]], path: Path) -> None:
    """Draw a group of bars for each input: each case's time over target + substitute run apart."""
    figure = Figure(figsize=(10, 5), layout="constrained")
    axis = figure.subplots()
    axis.set_prop_cycle(color=color_sequences["tab20"])
    names = sorted({name for cases in ratios.values() for name in cases})
    width = 0.8 / len(names)
    for i, name in enumerate(names):
        groups = [(group + i * width, cases[name]) for group, cases in enumerate(ratios.values()) if name in cases]
        positions, heights = zip(*groups, strict=True)
        axis.bar(positions, heights, width, label=name)
    axis.axhline(1, color="black", linewidth=1)
    axis.legend(ncols=2)
    axis.set_xticks([group + 0.4 - width / 2 for group in range(len(ratios))], list(ratios))
    axis.set_ylabel("median time over target + substitute run apart")
    figure.savefig(path, dpi=DPI)


def draw_kernels(seconds: Mapping[str, Mapping[str, float]], path: Path) -> None:
    """Draw one stacked bar for each graph: the time in each kind of kernel."""
    figure = Figure(figsize=(9, 4.5), layout="constrained")
    axis = figure.subplots()
    graphs, ends = list(seconds), np.zeros(len(seconds))

    def each(kind: str) -> list[float]:
        return [1000 * kernels.get(kind, 0.0) for kernels in seconds.values()]

    kinds = sorted({kind for kernels in seconds.values() for kind in kernels}, key=lambda kind: -max(each(kind)))
    for kind in kinds[:_MOST_KERNELS]:
        axis.barh(graphs, each(kind), left=ends, label=kind)
        ends += each(kind)
    totals = [1000 * sum(kernels.values()) for kernels in seconds.values()]
    axis.barh(graphs, totals - ends, left=ends, label="others")
    axis.set_xlabel("ms in kernels")
    figure.legend(loc="outside lower center", ncols=5, fontsize="small")
    figure.savefig(path, dpi=DPI)


def draw_scaling(lines: Mapping[str, Line], axis_labels: Mapping[str, str], path: Path) -> None:
    """Draw the measured milliseconds of each series and the line fitted to them, side by side."""
    figure = Figure(figsize=(12, 3.6), layout="constrained")
    for axis, (name, line) in zip(figure.subplots(1, len(lines)), lines.items(), strict=True):
        axis.plot(line.at, line.milliseconds, "o")
        label = f"{line.intercept:.1f} + {line.slope:.2f} x, r2 {line.r2:.3f}"
        axis.plot(line.at, [line.intercept + line.slope * x for x in line.at], label=label)
        axis.set(title=name, xlabel=axis_labels[name], ylabel="median ms")
        axis.legend()
    figure.savefig(path, dpi=DPI)


def draw_accuracy(rows: Mapping[str, Mapping[str, float]], path: Path) -> None:
    """Draw for each row its accuracy in percent: clean, and under the worst attack of each threat model."""
    figure = Figure(figsize=(8, 0.6 + 0.5 * len(rows)), layout="constrained")
    axis = figure.subplots()
    for offset, (name, colour) in enumerate(_THREAT_COLOURS.items()):
        points = [
            (row + 0.2 * offset, accuracy[name]) for row, accuracy in enumerate(rows.values()) if name in accuracy
        ]
        if points:
            positions, percents = zip(*points, strict=True)
            axis.barh(positions, percents, height=0.18, color=colour, label=name)
    axis.set_yticks([row + 0.3 for row in range(len(rows))], list(rows))
    axis.margins(y=0.01)
    axis.invert_yaxis()
    axis.set(xlabel="accuracy, %: clean, and under the worst attack of each threat model", xlim=(0, 100))
    axis.legend(fontsize=8)
    axis.grid(axis="x", alpha=0.3)
    figure.savefig(path, dpi=DPI)


def draw_tradeoff(points: Sequence[Point], path: Path) -> None:
    """Draw clean accuracy against accuracy under AutoAttack, numbered as in the list beside the plot."""
    figure = Figure(figsize=(12, 6.5), layout="constrained")
    axis = figure.subplots()
    sources = {source: f"C{i}" for i, source in enumerate(dict.fromkeys(point.source for point in points))}
    for number, point in enumerate(points, start=1):
        label = f"{number:2}  {point.name}: {point.clean:.1f} / {point.autoattack:.1f}"
        at = point.clean, point.autoattack
        axis.plot(*at, "o", color=sources[point.source], label=label)
        axis.annotate(str(number), at, xytext=(4, 4 + 8 * (number % 2)), textcoords="offset points", fontsize=7)
    title = "; ".join(f"{'blue' if colour == 'C0' else 'orange'}: {source}" for source, colour in sources.items())
    axis.set(title=title, xlabel="clean accuracy, %", ylabel="accuracy under AutoAttack, Linf 8/255, %")
    axis.grid(alpha=0.3)
    figure.legend(loc="outside right center", fontsize=8, title="clean / AutoAttack, %")
    figure.savefig(path, dpi=DPI)
