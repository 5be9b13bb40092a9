"""Training curves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from abnn_serve.files import atomic_write


def draw_curves(history: list[dict[str, Any]], path: Path) -> None:
    """Write a PNG with training and validation loss and accuracy by epoch.

    Args:
        history: records of the finished epochs, at least one.
        path: of the PNG file.
    """
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    axes = figure.subplots(1, 2)
    epochs = [row["epoch"] for row in history]
    for axis, quantity, scale, unit in (
        (axes[0], "loss", 1, "cross-entropy"),
        (axes[1], "accuracy", 100, "accuracy, %"),
    ):
        axis.plot(
            epochs,
            [scale * row[quantity] for row in history],
            "o-",
            markersize=3,
            label="training (augmented, smoothed labels)",
        )
        axis.plot(epochs, [scale * row[f"val_{quantity}"] for row in history], "o-", markersize=3, label="validation")
        if quantity == "accuracy" and all("val_pgd_accuracy" in row for row in history):
            robust = [scale * row["val_pgd_accuracy"] for row in history]
            axis.plot(epochs, robust, "o-", markersize=3, label="validation under PGD-10")
        axis.set(xlabel="epoch", ylabel=unit)
        axis.grid(alpha=0.3)
        axis.legend()
    last = history[-1]
    figure.suptitle(f"epoch {last['epoch']}: validation accuracy {last['val_accuracy']:.2%}")
    with atomic_write(path) as file:
        figure.savefig(file, dpi=110, format="png")
