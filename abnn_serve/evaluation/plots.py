"""Plots of an evaluation: accuracy against the attack's strength, and attacked samples."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from abnn_serve.card import Certification, Corruptions, Curve
from abnn_serve.files import atomic_write


def draw_robustness(curves: Sequence[Curve], path: Path) -> None:
    """Write a PNG of white-box accuracy against eps and steps, with 95% intervals."""
    figure = Figure(figsize=(4.8 * len(curves), 3.6), layout="constrained")
    axes = figure.subplots(1, len(curves), squeeze=False)[0]
    for axis, curve in zip(axes, curves, strict=True):
        scale = 255 if curve.parameter == "eps" else 1
        positions = [scale * position for position, _ in curve.points]
        accuracies = [accuracy for _, accuracy in curve.points]
        axis.plot(positions, [100 * accuracy.value for accuracy in accuracies], "o-", markersize=3)
        low, high = zip(*(accuracy.interval for accuracy in accuracies), strict=True)
        axis.fill_between(positions, [100 * value for value in low], [100 * value for value in high], alpha=0.2)
        axis.set(xlabel="eps, in 1/255" if curve.parameter == "eps" else "steps", ylabel="accuracy, %", ylim=(0, 100))
        axis.set_xscale("symlog", linthresh=1)
        axis.margins(x=0)
        axis.set_title(f"white-box, {curve.attack}", fontsize=10)
        axis.grid(alpha=0.3)
    with atomic_write(path) as file:
        figure.savefig(file, dpi=110, format="png")


def draw_certified(certification: Certification, path: Path) -> None:
    """Write a PNG of certified accuracy against patch size or L2 radius, with 95% intervals."""
    figure = Figure(figsize=(4.8, 3.6), layout="constrained")
    axis = figure.subplots()
    points = certification.points
    is_masks = certification.rule.masks is not None
    positions = [point.budget for point in points]
    for values, label, style in (
        ([p.certified for p in points], "certified", "o-"),
        ([p.clean for p in points], "by the rule, not attacked", "s--"),
    ):
        axis.plot(positions, [100 * value.value for value in values], style, markersize=3, label=label)
        low, high = zip(*(value.interval for value in values), strict=True)
        axis.fill_between(positions, [100 * value for value in low], [100 * value for value in high], alpha=0.2)
    axis.axhline(100 * certification.plain.value, color="grey", linewidth=1, linestyle=":", label="one plain pass")
    axis.set(
        xlabel="side of the patch, pixels" if is_masks else "L2 radius, in units of [0, 1] pixels",
        ylabel="accuracy, %",
        ylim=(0, 100),
    )
    axis.set_title(f"{certification.plain.n:,} samples, {certification.rule}", fontsize=8)
    axis.legend(fontsize=8)
    axis.grid(alpha=0.3)
    with atomic_write(path) as file:
        figure.savefig(file, dpi=110, format="png")


def draw_corruptions(corruptions: Corruptions, path: Path) -> None:
    """Write a PNG of accuracy by corruption and severity, one cell each, with the mean of each corruption."""
    names = list(dict.fromkeys(result.corruption for result in corruptions.results))
    shares = np.array([100 * result.accuracy.value for result in corruptions.results]).reshape(len(names), -1)
    table = np.column_stack([shares, shares.mean(axis=1)])
    figure = Figure(figsize=(6.2, 0.32 * len(names) + 1.2), layout="constrained")
    axis = figure.subplots()
    axis.imshow(table, cmap="viridis", vmin=0, vmax=100, aspect="auto")
    axis.set_xticks(range(table.shape[1]), [*(str(severity + 1) for severity in range(shares.shape[1])), "mean"])
    axis.set_yticks(range(len(names)), names)
    axis.set_xlabel("severity")
    for (row, column), share in np.ndenumerate(table):
        axis.text(column, row, f"{share:.0f}", ha="center", va="center", color="black" if share > 60 else "white")
    axis.set_title(f"accuracy under corruptions, %; mean {100 * corruptions.mean:.1f}", fontsize=10)
    with atomic_write(path) as file:
        figure.savefig(file, dpi=110, format="png")


def draw_samples(
    clean: NDArray[np.float32],
    adversarial: NDArray[np.float32],
    titles: Sequence[tuple[str, str]],
    caption: str,
    path: Path,
) -> None:
    """Write a PNG of clean images, attacked images and ten times their difference, in three rows.

    Args:
        clean: float32 (n, 3, H, W) in [0, 1], with n at most 8.
        adversarial: the attacked images, of the same shape.
        titles: for each image, its true class and its class after the attack.
        caption: name of the attack.
        path: the file to write, atomically.
    """
    rows = (clean, adversarial, np.clip(0.5 + 10 * (adversarial - clean), 0, 1))
    figure = Figure(figsize=(1.3 * len(clean), 4.6), layout="constrained")
    axes = figure.subplots(3, len(clean), squeeze=False)
    for row, images in enumerate(rows):
        for column, image in enumerate(images):
            axes[row][column].imshow(image.transpose(1, 2, 0), interpolation="nearest")
            axes[row][column].set(xticks=[], yticks=[])
            if row < 2:
                axes[row][column].set_title(titles[column][row], fontsize=8)
    for row, name in enumerate(("clean", "attacked", "difference x 10")):
        axes[row][0].set_ylabel(name, fontsize=8)
    figure.suptitle(caption, fontsize=9)
    with atomic_write(path) as file:
        figure.savefig(file, dpi=110, format="png")
