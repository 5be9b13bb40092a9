"""What do decoding and classifying video cost?

python -m benchmarks.video --quick
python -m benchmarks.video --videos CLIPS --out benchmarks/results/video-cpu

Decoding is compared with real time and with torchcodec, the fused 3D pair with its two networks run apart, both in CPU
time of one thread. CLIPS is a folder of videos of about 144 px, searched with its subfolders; without it a ten-second
video is drawn. torchcodec decodes the same frames with its own scaler, if it is installed (pip install torchcodec, and
FFmpeg's libraries).
"""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch

from abnn_serve.export.graph import export_graph
from abnn_serve.lab.abnn.network import PixelNetwork
from abnn_serve.lab.abnn.plan import plan_pairs
from abnn_serve.lab.abnn.surgery import apply_plan
from abnn_serve.lab.networks.zoo import build_network
from abnn_serve.media.limits import VideoLimits
from abnn_serve.media.video import decode_video
from abnn_serve.runtime.engine import open_graph
from abnn_serve.spec import InputSpec, Sampling
from benchmarks.common.command import add_out_option, new_parser, run
from benchmarks.common.report import Bar, write_record
from benchmarks.common.timing import Call, interleaved, medians
from benchmarks.common.videos import drawn_video, read_videos
from benchmarks.pair.graphs import random_networks

SIDE = 112
SPEC = InputSpec(height=SIDE, width=SIDE, sampling=Sampling(frames=16))
_CLASSES = 400
_RANK = 64
_MOST_FRAMES = 512  # of one video, where every frame is decoded


def main() -> list[Bar]:
    """Time, print and write the results."""
    parser = new_parser("video", __doc__)
    parser.add_argument("--quick", action="store_true", help="fewer rounds")
    parser.add_argument("--videos", type=Path, help="folder of videos; without it a video is drawn")
    parser.add_argument("--network", default="r3d_18", help="target and substitute, a name that abnn train accepts")
    add_out_option(parser)
    options = parser.parse_args()
    torch.set_num_threads(1)
    rounds = 3 if options.quick else 15
    videos = read_videos(options.videos, 5 if options.quick else 30) if options.videos else [drawn_video()]
    figures = {**_decoding(videos, rounds), **_network(options.network, rounds)}
    figures |= _overlap(videos, options.network, 1 if options.quick else 5)
    for name in ("every_frame_real_time", "every_frame_over_torchcodec", "overlapped"):
        if name in figures:
            print(f"{name.replace('_', ' '):<46} {figures[name]:8.3f}")
    bars = bars_of(figures, options.network)
    if options.out:
        write_record(options.out, vars(options), bars, **figures)
    return bars


def bars_of(figures: dict[str, float], network: str) -> list[Bar]:
    """The bars for a run's figures; torchcodec's is not measured if torchcodec cannot be loaded."""
    pair = f"fused / (target + substitute), {network}"
    return [
        Bar(name="decode + sampling, times real time", value=figures["real_time"], limit=20.0, better="larger"),
        Bar(name="decode + sampling / torchcodec's", value=figures.get("over_torchcodec"), limit=1.3),
        Bar(name=pair, setting="1x16x112x112", value=figures["fused_over_apart"], limit=1.05),
    ]


def _decoding(videos: list[bytes], rounds: int) -> dict[str, float]:
    """Seconds of video decoded per CPU second, for 16 frames and for all of them; the same relative to torchcodec."""
    limits = VideoLimits(decode_seconds=600.0)
    decoded = [decode_video(video, SPEC, limits) for video in videos]
    every_frame = [
        InputSpec(height=SIDE, width=SIDE, sampling=Sampling(frames=min(video.found, _MOST_FRAMES)))
        for video in decoded
    ]
    cases: dict[str, Call] = {
        "sampled": lambda: [decode_video(video, SPEC, limits) for video in videos],
        "every": lambda: [decode_video(video, spec, limits) for video, spec in zip(videos, every_frame, strict=True)],
        **_torchcodec(videos, [video.frames[0].tolist() for video in decoded]),
    }
    seconds, cost = sum(video.seconds for video in decoded), _cpu_medians(cases, rounds)
    figures = {
        "video_seconds": seconds,
        "real_time": seconds / cost["sampled"],
        "every_frame_real_time": seconds / cost["every"],
    }
    if "torchcodec" in cost:
        figures["over_torchcodec"] = cost["sampled"] / cost["torchcodec"]
        figures["every_frame_over_torchcodec"] = cost["every"] / cost["torchcodec_every"]
    return figures


def _torchcodec(videos: list[bytes], frames: list[list[int]]) -> dict[str, Call]:
    """The same frames at the same size with torchcodec's decoder and scaler; empty if it cannot be loaded."""
    try:
        from torchcodec.decoders import VideoDecoder
        from torchcodec.transforms import Resize
    except (ImportError, RuntimeError):
        return {}

    def decoder(video: bytes) -> Any:
        return VideoDecoder(video, num_ffmpeg_threads=1, transforms=[Resize((SIDE, SIDE))])

    return {
        "torchcodec": lambda: [
            decoder(video).get_frames_at(indices) for video, indices in zip(videos, frames, strict=True)
        ],
        "torchcodec_every": lambda: [decoder(video)[:_MOST_FRAMES] for video in videos],
    }


def _network(name: str, rounds: int) -> dict[str, float]:
    """CPU seconds of the fused pair and of its networks, for one clip."""
    target, substitute = random_networks(name, _CLASSES, (3, 16, SIDE, SIDE))
    plan = plan_pairs(target, substitute, torch.rand(1, 3, 16, SIDE, SIDE), rank=_RANK)
    graphs = {"fused": export_graph(apply_plan(target, substitute, plan).eval(), SPEC)}
    graphs |= {"target": export_graph(target, SPEC), "substitute": export_graph(substitute, SPEC)}
    clip = np.random.default_rng(0).integers(0, 256, (1, *SPEC.shape), np.uint8)
    sessions = {name: open_graph(graph, 1) for name, graph in graphs.items()}
    cases: dict[str, Call] = {
        name: lambda session=session: session.run(None, {"video": clip})  # type: ignore[misc]
        for name, session in sessions.items()
    }
    cost = _cpu_medians(cases, rounds)
    apart = cost["target"] + cost["substitute"]
    return {
        **{f"{name}_seconds": value for name, value in cost.items()},
        "fused_over_apart": cost["fused"] / apart,
    }


def _overlap(videos: list[bytes], name: str, rounds: int) -> dict[str, float]:
    """Wall time of decoding the next video while one is classified, relative to one after the other."""
    session = open_graph(export_graph(PixelNetwork(build_network(name, num_classes=_CLASSES)).eval(), SPEC), 1)
    four = (videos * 4)[:4]

    def pixels(video: bytes) -> np.ndarray[Any, np.dtype[np.uint8]]:
        return decode_video(video, SPEC, VideoLimits()).pixels

    def sequential() -> None:
        for video in four:
            session.run(None, {"video": pixels(video)})

    def overlapped() -> None:
        with ThreadPoolExecutor(1) as pool:
            for decoded in [pool.submit(pixels, video) for video in four]:
                session.run(None, {"video": decoded.result()})

    cost = medians(interleaved({"sequential": sequential, "overlapped": overlapped}, 0.0, rounds))
    return {"overlapped": cost["overlapped"] / cost["sequential"]}


def _cpu_medians(cases: dict[str, Call], rounds: int) -> dict[str, float]:
    return medians(interleaved(cases, 0.0, rounds, time.process_time))


if __name__ == "__main__":
    run("video", main)
