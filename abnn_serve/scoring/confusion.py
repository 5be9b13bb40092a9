"""The confusion matrix as a picture."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from abnn_serve.card import Accuracy
from abnn_serve.files import atomic_write
from abnn_serve.spec import Labels

_NAMED = 40  # classes beyond which names are too small to read
_COUNTED = 20


def draw_confusion(confusion: tuple[tuple[int, ...], ...], accuracy: Accuracy, labels: Labels, path: Path) -> None:
    """Draw shares of each true class (row) by answer (column), to a PNG file, atomically.

    Args:
        confusion: counts, true class by answer.
        accuracy: for the title.
        labels: names of the classes.
        path: of the file.
    """
    counts = np.asarray(confusion)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    named = len(labels) <= _NAMED
    side = min(3 + 0.55 * len(labels), 14) if named else 8
    figure = Figure(figsize=(side + 1, side), layout="constrained")
    axis = figure.subplots()
    image = axis.imshow(100 * shares, cmap="Blues", vmin=0, vmax=100)
    figure.colorbar(image, ax=axis, label="% of the true class", shrink=0.8)
    if named:
        axis.set_xticks(range(len(labels)), labels.names, rotation=45, ha="right", rotation_mode="anchor")
        axis.set_yticks(range(len(labels)), labels.names)
    if len(labels) <= _COUNTED:
        for (row, column), share in np.ndenumerate(shares):
            if counts[row, column]:
                colour = "white" if share > 0.5 else "black"
                shown = f"{100 * share:.1f}" if share < 0.9995 else "100"
                axis.text(column, row, shown, ha="center", va="center", fontsize=8, color=colour)
    axis.set(xlabel="answer", ylabel="true class", title=f"accuracy {accuracy}")
    with atomic_write(path) as file:
        figure.savefig(file, dpi=110, format="png")
