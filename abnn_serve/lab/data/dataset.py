"""A labelled data set of images or clips in memory."""

from __future__ import annotations

import hashlib
import tempfile
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from abnn_serve.arrays import batch_slices, softmax
from abnn_serve.spec import Labels

_IN_MEMORY = 1 << 31  # bytes
_CHUNK = 1 << 26  # bytes of pixels to hash at a time: the array may be a file on disk


@dataclass(frozen=True, kw_only=True)
class ImageData:
    """A labelled data set of images or clips.

    Attributes:
        source: the text that names the data, as `load_data` takes it.
        images: uint8 (N, H, W, 3), or clips (N, T, H, W, 3); RGB.
        labels: int64 (N,), each in [0, len(classes)).
        classes: class names in label order.
        corrupt: one line for each row that was skipped.
        videos: index of each clip's video, int64 (N,), ascending; None if samples are independent.
        mirrors: mirroring a sample keeps its class.
    """

    source: str
    images: NDArray[np.uint8]
    labels: NDArray[np.int64]
    classes: Labels
    corrupt: tuple[str, ...] = ()
    videos: NDArray[np.int64] | None = None
    mirrors: bool = True

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def name(self) -> str:
        """The source without its folders, for cards."""
        return ":".join(Path(part).name for part in self.source.split(":"))

    @property
    def frames(self) -> int:
        """Frames in a sample; 1 for images."""
        return self.images.shape[1] if self.images.ndim == 5 else 1

    def chunk(self, images: int) -> int:
        """How many samples have together as many frames as `images` images; at least 2."""
        return max(images // self.frames, 2)

    @cached_property
    def digest(self) -> str:
        """sha256 over pixels, labels and class names: the same data in another file has the same digest."""
        state = hashlib.sha256()
        step = max(1, _CHUNK // max(self.images[:1].nbytes, 1))
        for batch in batch_slices(len(self), step):
            state.update(np.ascontiguousarray(self.images[batch]).data)
        state.update(np.ascontiguousarray(self.labels).data)
        state.update("\n".join(self.classes.names).encode())
        return state.hexdigest()

    def spread(self, count: int) -> ImageData:
        """At most `count` samples, evenly spaced, as folders are sorted by class; of each video, the middle clip."""
        first, clips = self._clips
        middle = first + clips // 2
        index = middle[np.unique(np.linspace(0, len(middle) - 1, min(count, len(middle))).astype(np.int64))]
        videos = None if self.videos is None else self.videos[index]
        return replace(self, images=self.images[index], labels=self.labels[index], videos=videos)

    def part(self, batch: slice) -> ImageData:
        """The samples of a slice."""
        videos = None if self.videos is None else self.videos[batch]
        return replace(self, images=self.images[batch], labels=self.labels[batch], videos=videos)

    def by_video(self, logits: NDArray[np.float32]) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        """Mean over each video's clips of the softmax of logits (N, classes), and the videos' labels."""
        with np.errstate(invalid="ignore"):  # infinite logits become NaN
            scores = softmax(logits)
        first, clips = self._clips
        return np.add.reduceat(scores, first, axis=0) / clips[:, None], self.labels[first]

    @property
    def _clips(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Index of each video's first clip, and its number of clips; an image counts as a video of one clip."""
        videos = np.arange(len(self)) if self.videos is None else self.videos
        _, first, clips = np.unique(videos, return_index=True, return_counts=True)
        return first.astype(np.int64), clips.astype(np.int64)


def room_for(shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """An uninitialised uint8 array; above 2 GiB, a temporary file that is deleted when the process exits."""
    if int(np.prod(shape, dtype=np.int64)) <= _IN_MEMORY:
        return np.empty(shape, np.uint8)
    with tempfile.TemporaryFile(prefix="abnn-") as file:  # the memory map outlives the name
        return np.memmap(file, np.uint8, "w+", shape=shape)
