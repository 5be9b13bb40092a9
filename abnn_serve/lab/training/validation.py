"""What is measured after each epoch, on images that are not trained on."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from abnn_serve.arrays import batch_slices
from abnn_serve.lab.abnn.network import Network
from abnn_serve.lab.attacks.base import is_correct
from abnn_serve.lab.attacks.pgd import PGD
from abnn_serve.lab.data.dataset import ImageData
from abnn_serve.lab.device import describe_device
from abnn_serve.lab.training.batches import to_input
from abnn_serve.lab.training.recipe import Recipe
from abnn_serve.lab.training.views import accuracy_under_views

_CHECKED_IMAGES = 256  # that are attacked, masked or made noisy


def validate(network: Network, data: ImageData, recipe: Recipe, device: str) -> dict[str, Any]:
    """Clean loss and accuracy, and accuracy under what was trained for: masks, noise, PGD-10; for metrics.jsonl."""
    accuracy, loss = evaluate_clean(network, data, device=device)
    entry: dict[str, Any] = {"val_loss": loss, "val_accuracy": accuracy, "hardware": describe_device(device)}
    checked = data.spread(data.chunk(_CHECKED_IMAGES))
    entry |= accuracy_under_views(network, checked, recipe, device)
    if recipe.attack_steps:
        entry["val_pgd_accuracy"] = _pgd_accuracy(network, checked, recipe, device)
    return entry


@torch.inference_mode()
def evaluate_clean(
    network: Network, data: ImageData, *, device: str = "cpu", batch_size: int = 500
) -> tuple[float, float]:
    """Accuracy in [0, 1] and mean cross-entropy of a network in eval mode, averaging clips of a video.

    `batch_size` counts images, or frames of clips.
    """
    network.eval()
    size = data.chunk(batch_size)
    parts = [network(to_input(data.images[b], device)).float().cpu() for b in batch_slices(len(data), size)]
    scores, labels = data.by_video(torch.cat(parts).numpy())
    likelihood = scores[np.arange(len(labels)), labels]
    return float((scores.argmax(axis=1) == labels).mean()), float(-np.log(np.maximum(likelihood, 1e-38)).mean())


def _pgd_accuracy(network: Network, data: ImageData, recipe: Recipe, device: str) -> float:
    x, y = to_input(data.images, device), torch.from_numpy(data.labels).to(device)
    attack = PGD(eps=recipe.attack_eps, steps=10)
    return float(is_correct(network, attack(network, x, y), y).float().mean())
