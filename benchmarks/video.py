"""What video costs: decoding beside real time and torchcodec, and the fused 3D pair beside its two networks run apart.

python benchmarks/video.py --quick                                   # the bars; exits 1 if one is missed
python benchmarks/video.py --videos CLIPS --out benchmarks/results/video-cpu

One thread. CLIPS is a folder of videos of about 144 px, searched whole; without it ten seconds are drawn. torchcodec
is compared where it is installed (pip install torchcodec, and FFmpeg's libraries): the same frames, its own scaler.
"""

from __future__ import annotations

import argparse
import io
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch
from common.report import write_record
from numpy.typing import NDArray

from abnn_serve.errors import AbnnError
from abnn_serve.export.graph import export_graph
from abnn_serve.lab.abnn.network import PixelNetwork
from abnn_serve.lab.abnn.plan import plan_pairs
from abnn_serve.lab.abnn.surgery import apply_plan
from abnn_serve.lab.networks.zoo import build_network
from abnn_serve.media.container import SUFFIXES
from abnn_serve.media.limits import VideoLimits
from abnn_serve.media.video import decode_video
from abnn_serve.runtime.engine import open_graph
from abnn_serve.spec import InputSpec, Sampling

SPEC = InputSpec(height=112, width=112, sampling=Sampling(frames=16))
REAL_TIME, TORCHCODEC, FUSED = 20.0, 1.3, 1.05
RANK = 64
Call = Callable[[], object]


def main() -> None:
    """Time, print, write; exit with 1 where a bar is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer rounds")
    parser.add_argument("--videos", type=Path, help="folder of videos; ten seconds are drawn if not given")
    parser.add_argument("--network", default="r3d_18", help="of target and substitute")
    parser.add_argument("--out", type=Path, help="stem of the JSON file to write")
    options = parser.parse_args()
    torch.set_num_threads(1)
    rounds = 3 if options.quick else 15
    videos = _videos(options.videos, 5 if options.quick else 30)
    figures = {**_decoding(videos, rounds), **_network(options.network, rounds)}
    figures |= _overlap(videos, options.network, 1 if options.quick else 5)
    bars = [
        ("decode + sampling, times real time", figures["real_time"], REAL_TIME, True),
        ("decode + sampling / torchcodec's", figures.get("over_torchcodec"), TORCHCODEC, False),
        (f"fused / (target + substitute), {options.network}", figures["fused_over_apart"], FUSED, False),
    ]
    missed = 0
    for what, value, limit, least in bars:
        if value is None:
            print(f"{what:<44} not measured: torchcodec cannot be loaded here")
            continue
        holds = value >= limit if least else value <= limit
        missed += not holds
        print(f"{what:<44} {value:8.3f} {'>=' if least else '<='} {limit:5.2f}{'' if holds else '  MISSED'}")
    for name in ("every_frame_real_time", "every_frame_over_torchcodec", "overlapped"):
        if name in figures:
            print(f"{name.replace('_', ' '):<44} {figures[name]:8.3f}")
    if options.out:
        write_record(options.out.with_suffix(".json"), vars(options), **figures)
    sys.exit(1 if missed else 0)


def _videos(folder: Path | None, count: int) -> list[bytes]:
    if folder is None:
        return [_drawn()]
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)
    return [paths[i].read_bytes() for i in np.unique(np.linspace(0, len(paths) - 1, count).astype(int))]


def _drawn() -> bytes:
    """Ten seconds, 192x144, 25 frames a second, H.264: a smooth picture that drifts."""
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


def _decoding(videos: list[bytes], rounds: int) -> dict[str, float]:
    """Seconds of video for each second of work, 16 frames sampled or all of them; and beside torchcodec."""
    limits = VideoLimits(decode_seconds=600.0)
    found = [decode_video(video, SPEC, limits) for video in videos]
    whole = [InputSpec(height=112, width=112, sampling=Sampling(frames=min(video.found, 512))) for video in found]
    cases: dict[str, Call] = {
        "ours": lambda: [decode_video(video, SPEC, limits) for video in videos],
        "every": lambda: [decode_video(video, spec, limits) for video, spec in zip(videos, whole, strict=True)],
        **_torchcodec(videos, [video.frames[0].tolist() for video in found]),
    }
    seconds, medians = sum(video.seconds for video in found), _medians(cases, rounds)
    figures = {
        "video_seconds": seconds,
        "real_time": seconds / medians["ours"],
        "every_frame_real_time": seconds / medians["every"],
    }
    if "torchcodec" in medians:
        figures["over_torchcodec"] = medians["ours"] / medians["torchcodec"]
        figures["every_frame_over_torchcodec"] = medians["every"] / medians["torchcodec_every"]
    return figures


def _torchcodec(videos: list[bytes], chosen: list[list[int]]) -> dict[str, Call]:
    """The same frames at the same size, by torchcodec's own decoder and scaler; nothing where it cannot be loaded."""
    try:
        from torchcodec.decoders import VideoDecoder
        from torchcodec.transforms import Resize
    except (ImportError, RuntimeError):
        return {}

    def opened(video: bytes) -> Any:
        return VideoDecoder(video, num_ffmpeg_threads=1, transforms=[Resize((112, 112))])

    return {
        "torchcodec": lambda: [
            opened(video).get_frames_at(frames) for video, frames in zip(videos, chosen, strict=True)
        ],
        "torchcodec_every": lambda: [opened(video)[:512] for video in videos],
    }


def _network(name: str, rounds: int) -> dict[str, float]:
    torch.manual_seed(0)
    target, substitute = (PixelNetwork(build_network(name, num_classes=400)).eval() for _ in range(2))
    for plain in (target, substitute):
        with torch.no_grad():
            plain.train()(torch.rand(2, 3, 16, 112, 112))  # running statistics of some input
        plain.eval()
    plan = plan_pairs(target, substitute, torch.rand(1, 3, 16, 112, 112), rank=RANK)
    graphs = {"fused": export_graph(apply_plan(target, substitute, plan).eval(), SPEC)}
    graphs |= {"target": export_graph(target, SPEC), "substitute": export_graph(substitute, SPEC)}
    clip = np.random.default_rng(0).integers(0, 256, (1, *SPEC.shape), np.uint8)
    sessions = {name: open_graph(graph, 1) for name, graph in graphs.items()}
    cases: dict[str, Call] = {
        name: lambda session=session: session.run(None, {"video": clip})  # type: ignore[misc]
        for name, session in sessions.items()
    }
    medians = _medians(cases, rounds)
    apart = medians["target"] + medians["substitute"]
    return {
        **{f"{name}_seconds": value for name, value in medians.items()},
        "fused_over_apart": medians["fused"] / apart,
    }


def _overlap(videos: list[bytes], name: str, rounds: int) -> dict[str, float]:
    """Decoding the next video while one is classified, beside one after the other."""
    session = open_graph(export_graph(PixelNetwork(build_network(name, num_classes=400)).eval(), SPEC), 1)
    some = (videos * 4)[:4]

    def clip(video: bytes) -> NDArray[np.uint8]:
        return decode_video(video, SPEC, VideoLimits()).pixels

    def apart() -> None:
        for video in some:
            session.run(None, {"video": clip(video)})

    def together() -> None:
        with ThreadPoolExecutor(1) as ahead:
            waiting = [ahead.submit(clip, video) for video in some]
            for decoded in waiting:
                session.run(None, {"video": decoded.result()})

    medians = _medians({"apart": apart, "together": together}, rounds, time.perf_counter)
    return {"overlapped": medians["together"] / medians["apart"]}


def _medians(cases: dict[str, Call], rounds: int, clock: Callable[[], float] = time.process_time) -> dict[str, float]:
    """Median seconds of each case by `clock`, the processor's own unless another is given; all in turn."""
    samples: dict[str, list[float]] = {name: [] for name in cases}
    for call in cases.values():
        call()
    for _ in range(rounds):
        for name, call in cases.items():
            start = clock()
            call()
            samples[name].append(clock() - start)
    return {name: float(np.median(times)) for name, times in samples.items()}


if __name__ == "__main__":
    try:
        main()
    except AbnnError as error:
        sys.exit(f"video: {error}")
