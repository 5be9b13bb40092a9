"""Pictures of an evaluation: accuracy against the attack's strength, and attacked samples."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from abnn_serve.card import Curve
from abnn_serve.files import atomic_write


def draw_robustness(curves: Sequence[Curve], path: Path) -> None:
    """Draw white-box accuracy against eps and against steps, with 95% intervals, to a PNG file, atomically."""
    figure = Figure(figsize=(4.8 * len(curves), 3.6), layout="constrained")
    axes = figure.subplots(1, len(curves), squeeze=False)[0]
    for axis, curve in zip(axes, curves, strict=True):
        scale = 255 if curve.parameter == "eps" else 1
        at = [scale * position for position, _ in curve.points]
        shares = [accuracy for _, accuracy in curve.points]
        axis.plot(at, [100 * share.value for share in shares], "o-", markersize=3)
        low, high = zip(*(share.interval for share in shares), strict=True)
        axis.fill_between(at, [100 * value for value in low], [100 * value for value in high], alpha=0.2)
        axis.set(xlabel="eps, in 1/255" if curve.parameter == "eps" else "steps", ylabel="accuracy, %", ylim=(0, 100))
        axis.set_xscale("symlog", linthresh=1)
        axis.margins(x=0)
        axis.set_title(f"white-box, {curve.attack}", fontsize=10)
        axis.grid(alpha=0.3)
    with atomic_write(path) as file:
        figure.savefig(file, dpi=110, format="png")


def draw_samples(
    clean: NDArray[np.float32],
    adversarial: NDArray[np.float32],
    titles: Sequence[tuple[str, str]],
    caption: str,
    path: Path,
) -> None:
    """Draw images, (n, 3, H, W) in [0, 1], their attacked forms and ten times the difference, to a PNG file.

    Args:
        clean: up to eight images.
        adversarial: the same after an attack.
        titles: for each, the answer before and the answer after.
        caption: which attack.
        path: of the file; written atomically.
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
