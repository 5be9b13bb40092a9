"""Training curves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from abnn_serve.files import atomic_write

_HARDER = {
    "val_pgd_accuracy": "validation under PGD-10",
    "val_masked_accuracy": "validation under every pair of masks",
    "val_noisy_accuracy": "validation with noise",
}


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
        for key, label in _HARDER.items() if quantity == "accuracy" else ():
            if all(key in row for row in history):
                axis.plot(epochs, [scale * row[key] for row in history], "o-", markersize=3, label=label)
        axis.set(xlabel="epoch", ylabel=unit)
        axis.grid(alpha=0.3)
        axis.legend()
    last = history[-1]
    figure.suptitle(f"epoch {last['epoch']}: validation accuracy {last['val_accuracy']:.2%}")
    with atomic_write(path) as file:
        figure.savefig(file, dpi=110, format="png")
