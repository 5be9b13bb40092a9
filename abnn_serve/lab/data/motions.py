"""Clips of a moving camera over still images: ten classes that no single frame reveals."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from abnn_serve.arrays import batch_slices
from abnn_serve.lab.data.dataset import room_for
from abnn_serve.spec import Sampling

# The camera's motions: a pan to the left moves the image to the right.
MOTIONS = (
    "pan left",
    "pan right",
    "pan up",
    "pan down",
    "zoom in",
    "zoom out",
    "rotate left",
    "rotate right",
    "shake",
    "static",
)
_BATCH = 500
_NOISE = 2.0  # standard deviation of each frame's noise, in levels of 255, so that frames of a static clip differ


def moving(
    images: NDArray[np.uint8], sampling: Sampling, *, seed: int = 0
) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Make a clip from each image with one of MOTIONS.

    Position, zoom, angle and speed are random, so that no single frame reveals the motion.

    Args:
        images: uint8 (N, H, W, 3).
        sampling: its `frames` is T; the motion lasts from the first frame to the last.
        seed: random seed; the same images and seed give the same clips.

    Returns:
        clips, uint8 (N, T, H, W, 3), and the index of each motion in MOTIONS, int64 (N,).
    """
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, len(MOTIONS), len(images))
    clips = room_for((len(images), sampling.frames, *images.shape[1:]))
    for batch in batch_slices(len(images), _BATCH):
        views = _views(labels[batch], sampling.frames, rng)
        clips[batch] = _render(images[batch], views, rng)
    return clips, labels


def _views(labels: NDArray[np.int64], frames: int, rng: np.random.Generator) -> Tensor:
    """The camera's view in every frame, as affine maps from frame to image, float32 (N, T, 2, 3)."""
    count, time = len(labels), np.linspace(-0.5, 0.5, frames)
    pace = time * rng.uniform(0.75, 1.25, (count, 1))
    x, y, angle = (rng.uniform(-limit, limit, (count, 1)) + 0 * time for limit in (0.15, 0.15, 0.1))
    zoom = (
        rng.uniform(0.7, 0.8, (count, 1)) + 0 * time
    )  # the visible share of the image's half side, which leaves a margin
    pan, turn, grow = 0.6 * pace, 0.7 * pace, np.exp(0.7 * pace)
    x = x + pan * ((labels == 1) * 1.0 - (labels == 0))[:, None]
    y = y + pan * ((labels == 3) * 1.0 - (labels == 2))[:, None]
    zoom = zoom * np.where((labels == 4)[:, None], 1 / grow, np.where((labels == 5)[:, None], grow, 1.0))
    angle = angle + turn * ((labels == 7) * 1.0 - (labels == 6))[:, None]
    shaken = (labels == 8)[:, None] * rng.uniform(0.06, 0.14, (count, 1))
    x, y = (
        centre + shaken * rng.choice([-1.0, 1.0], (count, frames)) * rng.uniform(0.5, 1, (count, frames))
        for centre in (x, y)
    )
    cosine, sine = zoom * np.cos(angle), zoom * np.sin(angle)
    views = np.stack([cosine, -sine, x, sine, cosine, y], axis=-1).reshape(count, frames, 2, 3)
    return torch.from_numpy(views.astype(np.float32))


def _render(images: NDArray[np.uint8], views: Tensor, rng: np.random.Generator) -> NDArray[np.uint8]:
    count, frames = views.shape[:2]
    stills = torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2).float()
    grid = nn.functional.affine_grid(views.flatten(0, 1), [count * frames, 3, *stills.shape[2:]], align_corners=False)
    rendered = nn.functional.grid_sample(
        stills.repeat_interleave(frames, dim=0), grid, mode="bilinear", padding_mode="reflection", align_corners=False
    )
    noise = rng.standard_normal(rendered.shape, dtype=np.float32) * _NOISE
    pixels = (rendered + torch.from_numpy(noise)).round_().clamp_(0, 255).to(torch.uint8)
    clips: NDArray[np.uint8] = pixels.permute(0, 2, 3, 1).numpy().reshape(count, frames, *images.shape[1:])
    return clips
