"""The service that the trials attack: its process, its workers, its recovery."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil

from benchmarks.common.images import noise_pngs
from benchmarks.common.operated import discarding_collector, everything
from benchmarks.common.report import Bar
from benchmarks.common.servers import ABNN, Server, closed_loop, running

CLIENTS = 16
Result = tuple[list[Bar], dict[str, Any]]  # a trial's bars, and its other figures


@contextlib.contextmanager
def serving(options: argparse.Namespace, folder: Path, **environment: str) -> Iterator[Server]:
    """Run the service with one thread until the block ends; its log and BentoML's home are in `folder`.

    With `options.operated` everything of docs/monitoring.md is on, spans of all requests included, but API keys.
    """
    settings = {
        "ABNN_BUNDLE": str(options.bundle),
        "ABNN_VIDEO_BUNDLE": str(options.video_bundle),
        "ABNN_THREADS": "1",
        "BENTOML_HOME": str(folder / "home"),
    }
    with contextlib.ExitStack() as stack:
        if options.operated:
            collector = stack.enter_context(discarding_collector())
            _, operated = everything(folder, options.bundle, collector)
            del operated["ABNN_API_KEY_FILE"]  # what the trials send has no key
            settings |= {**operated, "ABNN_TRACE_SAMPLE": "1"}
            shutil.copytree(options.video_bundle, folder / "bundles" / "videos")
            del settings["ABNN_VIDEO_BUNDLE"]
        yield stack.enter_context(running(ABNN, folder / "log", env={**settings, **environment}))


def workers(server: Server) -> list[psutil.Process]:
    """The processes that answer requests; the supervisor started them."""
    children = psutil.Process(server.process.pid).children(recursive=True)
    return [child for child in children if "_bentoml_impl.worker.service" in " ".join(child.cmdline())]


def failures_after(server: Server, size: int, seconds: float) -> int:
    """How many of one client's requests fail in the next `seconds`; images are `size` pixels square."""
    samples = asyncio.run(closed_loop(f"{server.url}/classify", noise_pngs(size), 1, seconds))
    return sum(sample.status != 200 for sample in samples)
