"""Videos for `benchmarks.video`: from a folder, or drawn."""

from __future__ import annotations

import io
from pathlib import Path

import av
import numpy as np

from abnn_serve.media.container import SUFFIXES


def read_videos(folder: Path, count: int) -> list[bytes]:
    """`count` videos of a folder and its subfolders, evenly spaced over the sorted paths."""
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)
    return [paths[i].read_bytes() for i in np.unique(np.linspace(0, len(paths) - 1, count).astype(int))]


def drawn_video() -> bytes:
    """Ten seconds of drifting blocks in H.264, 192x144 at 25 frames per second."""
    noise = np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8).repeat(8, axis=0).repeat(8, axis=1)
    out = io.BytesIO()
    with av.open(out, "w", format="mp4") as file:
        stream = file.add_stream("libx264", rate=25)
        stream.height, stream.width, stream.pix_fmt = 144, 192, "yuv420p"
        for i in range(250):
            frame = np.ascontiguousarray(noise[i % 160 : i % 160 + 144, i : i + 192])
            file.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        file.mux(stream.encode(None))
    return out.getvalue()
