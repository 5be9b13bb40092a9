"""The confusion matrix of a run, drawn as a PNG image."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from abnn_serve.card import Accuracy
from abnn_serve.files import atomic_write
from abnn_serve.spec import Labels

_MAX_NAMED = 40  # classes; with more, the names are too small to read
_MAX_NUMBERED = 20


def draw_confusion(confusion: tuple[tuple[int, ...], ...], accuracy: Accuracy, labels: Labels, path: Path) -> None:
    """Draw the share of each true class (row) that was predicted as each class (column), and write it atomically.

    Args:
        confusion: counts by true class, then predicted class.
        accuracy: shown in the title.
        labels: names of the classes.
        path: PNG file to write.
    """
    counts = np.asarray(confusion)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    named = len(labels) <= _MAX_NAMED
    side = min(3 + 0.55 * len(labels), 14) if named else 8
    figure = Figure(figsize=(side + 1, side), layout="constrained")
    axis = figure.subplots()
    image = axis.imshow(100 * shares, cmap="Blues", vmin=0, vmax=100)
    figure.colorbar(image, ax=axis, label="% of the true class", shrink=0.8)
    if named:
        axis.set_xticks(range(len(labels)), labels.names, rotation=45, ha="right", rotation_mode="anchor")
        axis.set_yticks(range(len(labels)), labels.names)
    if len(labels) <= _MAX_NUMBERED:
        for (row, column), share in np.ndenumerate(shares):
            if counts[row, column]:
                colour = "white" if share > 0.5 else "black"
                text = f"{100 * share:.1f}" if share < 0.9995 else "100"
                axis.text(column, row, text, ha="center", va="center", fontsize=8, color=colour)
    axis.set(xlabel="predicted class", ylabel="true class", title=f"accuracy {accuracy}")
    with atomic_write(path) as file:
        figure.savefig(file, dpi=110, format="png")
