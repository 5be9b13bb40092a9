"""What does decoding in isolated processes cost, beside decoding in threads?

python -m benchmarks.isolation --quick
python -m benchmarks.isolation --out benchmarks/results/isolation-cpu

The same files are decoded in this process and in an isolated one, in turn; "cpu" is the processor time of both
processes, which other work on the machine hardly changes. Over HTTP, one server gets 32-pixel baseline
JPEG images, which it decodes in threads, and the same images as progressive JPEG, which isolated processes decode.
"""

from __future__ import annotations

import asyncio
import io
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

from abnn_serve.media.image import load_image
from abnn_serve.media.isolation.pool import DecoderPool
from abnn_serve.media.limits import ImageLimits, VideoLimits
from abnn_serve.media.video import decode_video
from abnn_serve.spec import InputSpec, Sampling
from benchmarks.common.command import add_out_option, new_parser, run
from benchmarks.common.images import smooth_jpeg
from benchmarks.common.report import Bar, write_record
from benchmarks.common.servers import ABNN, closed_loop, running
from benchmarks.common.timing import Call, interleaved, medians
from benchmarks.common.videos import drawn_video

_CLIENTS = 32
_CPU_ROUNDS = 100
_SPEC = InputSpec(height=224, width=224)
_CLIP_SPEC = InputSpec(height=112, width=112, sampling=Sampling(frames=16))


def main() -> list[Bar]:
    """Time, print and write the results."""
    parser = new_parser("isolation", __doc__)
    parser.add_argument("--quick", action="store_true", help="fewer rounds")
    add_out_option(parser)
    options = parser.parse_args()
    seconds = 3.0 if options.quick else 20.0
    figures = {**_decoding(seconds), **_over_http(seconds / 4)}
    for name, value in figures.items():
        print(f"{name:<46} {value:10.3f}")
    bars = bars_of(figures)
    if options.out:
        write_record(options.out, vars(options), bars, **figures)
    return bars


def bars_of(figures: dict[str, float]) -> list[Bar]:
    """The bars for a run's figures."""
    rates = (
        ("decoding rate, process / thread", "1920 px", "large_rate"),
        ("decoding rate, process / thread", "144 px clip", "clip_rate"),
        ("images/s at concurrency 32, process / thread", "32 px", "http_rate"),
    )
    return [
        *(Bar(name=name, setting=at, value=figures[key], limit=0.95, better="larger") for name, at, key in rates),
        Bar(name="HTTP p50, ms more in a process", setting="32 px", value=figures["http_more_ms"], limit=0.5),
    ]


def _decoding(seconds: float) -> dict[str, float]:
    """Median milliseconds here and in an isolated process, and the ratio of the rates."""
    large, small = smooth_jpeg(1920, np.random.default_rng(0)), _progressive(_images()[0])
    clip, limits, video_limits = drawn_video(), ImageLimits(), VideoLimits()
    with DecoderPool(1) as pool:
        cases: dict[str, Call] = {
            "large_here": lambda: load_image(large, _SPEC, limits),
            "large_isolated": lambda: pool.image(large, _SPEC, limits),
            "clip_here": lambda: decode_video(clip, _CLIP_SPEC, video_limits),
            "clip_isolated": lambda: pool.video(clip, _CLIP_SPEC, video_limits),
            "small_here": lambda: load_image(small, _SPEC, limits),
            "small_isolated": lambda: pool.image(small, _SPEC, limits),
        }
        cost = medians(interleaved(cases, seconds))
        used = {name: _cpu_seconds(call, pool) for name, call in cases.items()}
    figures = {f"{name}_ms": 1000 * value for name, value in cost.items()}
    figures |= {f"{name}_cpu_ms": 1000 * value for name, value in used.items()}
    rates = {f"{name}_rate": cost[f"{name}_here"] / cost[f"{name}_isolated"] for name in ("large", "clip")}
    rates |= {f"{name}_cpu_rate": used[f"{name}_here"] / used[f"{name}_isolated"] for name in ("large", "clip")}
    return figures | rates


def _cpu_seconds(call: Call, pool: DecoderPool) -> float:
    """Median processor time of this thread and of the decoding process, which takes turns with it."""
    (process,) = pool.pids
    clock = Path(f"/proc/{process}/schedstat")
    values = []
    for _ in range(_CPU_ROUNDS):
        own, other = time.thread_time(), int(clock.read_text().split()[0])
        call()
        values.append(time.thread_time() - own + (int(clock.read_text().split()[0]) - other) / 1e9)
    return float(np.median(values))


def _over_http(seconds: float) -> dict[str, float]:
    """Median latency of one client, and images/s of 32, for images decoded in threads and in isolated processes."""
    plain = _images()
    sets = {"plain": plain, "isolated": [_progressive(image) for image in plain]}
    latencies: dict[str, list[float]] = {name: [] for name in sets}
    rates: dict[str, list[float]] = {name: [] for name in sets}
    with tempfile.TemporaryDirectory() as folder, running(ABNN, Path(folder) / "log") as server:
        url = f"{server.url}/classify"
        for _ in range(4):
            for name, images in sets.items():
                alone = asyncio.run(closed_loop(url, images, 1, seconds))
                latencies[name] += [sample.seconds for sample in alone]
                together = asyncio.run(closed_loop(url, images, _CLIENTS, seconds))
                rates[name].append(sum(sample.status == 200 for sample in together) / seconds)
    p50 = {name: 1000 * float(np.median(values)) for name, values in latencies.items()}
    rate = {name: float(np.median(values)) for name, values in rates.items()}
    return {
        "http_plain_p50_ms": p50["plain"],
        "http_isolated_p50_ms": p50["isolated"],
        "http_more_ms": p50["isolated"] - p50["plain"],
        "http_plain_images_per_second": rate["plain"],
        "http_isolated_images_per_second": rate["isolated"],
        "http_rate": rate["isolated"] / rate["plain"],
    }


def _images() -> list[bytes]:
    rng = np.random.default_rng(1)
    return [smooth_jpeg(32, rng) for _ in range(16)]


def _progressive(data: bytes) -> bytes:
    out = io.BytesIO()
    Image.open(io.BytesIO(data)).save(out, "JPEG", quality=90, progressive=True)
    return out.getvalue()


if __name__ == "__main__":
    run("isolation", main)
