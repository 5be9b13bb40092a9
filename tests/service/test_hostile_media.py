"""Hostile images and videos against a real server: a 4xx for their sender, and nothing for anybody else."""

from __future__ import annotations

import os
import re
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import numpy as np
import psutil
import pytest
from PIL import Image

from tests.drawing import draw_shape, encode_video, moving_square, png
from tests.media import crafted
from tests.media.matroska import mkv_of
from tests.service.server import serving_process, wait_until

PLAIN = png(draw_shape(1, np.random.default_rng(3), 50))
UNUSUAL = crafted.jpeg(progressive=True)
LARGE = png(Image.new("L", (3000, 3000)))
_MP4 = encode_video(moving_square(2), codec="mpeg4")
_PADDED = crafted.jpeg()[:-2] + bytes(1_000_000) + b"\xff\xd9"
HOSTILE = {
    "S2 sample table": crafted.mp4_with(_MP4, {b"stsz": crafted.full_box(1, 80_000_000)}),
    "S2 sample table in an odd box": crafted.mp4_with_box_in_track(
        _MP4, crafted.box(b"tref", crafted.box(b"stsz", crafted.full_box(1, 80_000_000)))
    ),
    "S3 packets without their beginning": mkv_of([_PADDED] * 200, (64, 64), "stripped", prefix=_PADDED[:-2]),
    "S3 deflated packets": mkv_of([_PADDED] * 200, (64, 64), "zlib"),
    "S3 overlapping packets": crafted.overlapping_packets(2000, side=256),
    "S4 tiles": crafted.tiled_tiff((1, 5000), (1_000_000, 16), 313),
    "S4 tile": crafted.tiled_tiff((1, 1), (32_768, 32_768), 1),
    "S5 scans": crafted.many_scans(1000, multi_picture=True),
    "S10 scans in a video": crafted.mov_of([crafted.many_scans(200)], "mjpeg", (64, 64)),
    "S11 frame size": crafted.mov_of([png(Image.new("RGB", (3000, 3000)))], "png"),
    "S15 canvas": crafted.animated_webp(6320, 6320),
    "S16 strips": crafted.striped_tiff(100_000),
    "S16 fill": crafted.after_first_segment(b"\xff" * 90_000),
    "S16 segments": crafted.after_first_segment(b"\xff\xe5\x00\x02" * 20_000),
}
_VIDEOS = ("S2", "S3", "S10", "S11")


def _decoders(process: psutil.Process) -> list[psutil.Process]:
    """The decoding processes of a server."""
    return [child for child in process.children(recursive=True) if "isolation.worker" in " ".join(child.cmdline())]


@pytest.fixture(scope="module")
def running(tmp_path_factory) -> Iterator[tuple[httpx.Client, psutil.Process]]:
    """A server with the default bundles and limits, and its process."""
    with serving_process(None, tmp_path_factory.mktemp("hostile") / "log") as (client, process):
        yield client, psutil.Process(process.pid)


def _post(client: httpx.Client, data: bytes, path: str = "classify") -> httpx.Response:
    field = "video" if path == "classify_video" else "image"
    return client.post(f"/{path}", files={field: ("x", data)})


@pytest.mark.parametrize("finding", HOSTILE)
def test_a_hostile_file_is_a_4xx_and_its_memory_comes_back(running, finding):
    client, process = running
    path = "classify_video" if finding.split()[0] in _VIDEOS else "classify"
    _post(client, PLAIN)
    before = _memory(process)
    response = _post(client, HOSTILE[finding], path)
    assert response.status_code in {400, 413, 415}, response.text
    assert response.elapsed.total_seconds() < 5
    wait_until(lambda: _memory(process) < before + 30_000_000, seconds=10)


def test_plain_images_are_answered_while_others_send_hostile_files(running):
    client, _ = running
    end = threading.Event()

    def attack() -> int:
        count = 0
        while not end.is_set():
            for data in (HOSTILE["S4 tiles"], HOSTILE["S5 scans"], LARGE):
                assert _post(client, data).status_code in {200, 413, 503}  # 503: the other attacker's image is first
                count += 1
        return count

    with ThreadPoolExecutor() as threads:
        attacks = [threads.submit(attack) for _ in range(2)]
        try:
            times = []
            for _ in range(20):
                started = time.perf_counter()
                assert _post(client, PLAIN).status_code == 200
                assert _post(client, UNUSUAL).status_code == 200
                assert client.get("/readyz").status_code == 200
                times.append(time.perf_counter() - started)
        finally:
            end.set()
        assert all(attack.result() > 0 for attack in attacks)
    assert np.median(times) < 2


def test_a_killed_decoder_costs_no_request_anything_and_is_counted_and_replaced(running):
    client, process = running
    wait_until(lambda: len(_decoders(process)) == 2)
    with ThreadPoolExecutor() as threads:
        killed = threads.submit(_kill_busy, process)
        while not killed.done():
            assert _post(client, LARGE).status_code == 200
        killed.result()
    assert _post(client, LARGE).status_code == 200
    (count,) = re.findall(r'abnn_decoder_deaths_total\{cause="killed"\} (\S+)', client.get("/metrics").text)
    assert float(count) == 1
    wait_until(lambda: len(_decoders(process)) == 2)


def _kill_busy(process: psutil.Process) -> None:
    """Kill a decoding process while it decodes."""
    decoders = _decoders(process)
    used = {decoder.pid: sum(decoder.cpu_times()[:2]) for decoder in decoders}
    while True:
        for decoder in decoders:
            if sum(decoder.cpu_times()[:2]) > used[decoder.pid] + 0.02 and decoder.status() == psutil.STATUS_RUNNING:
                os.kill(decoder.pid, signal.SIGKILL)
                return
        time.sleep(0.005)


def test_a_server_whose_decoders_die_starts_others_and_is_ready_again(running):
    client, process = running
    decoders = _decoders(process)
    for decoder in decoders:
        decoder.kill()
    wait_until(lambda: not any(decoder.is_running() for decoder in decoders) or client.get("/readyz").is_error)
    wait_until(lambda: client.get("/readyz").status_code == 200 and len(_decoders(process)) == 2)
    assert _post(client, UNUSUAL).status_code == 200


def test_the_model_says_how_decoders_are_isolated(running):
    client, _ = running
    shown = client.get("/model").json()["decoder_isolation"]
    assert shown[0] == "rlimits"
    assert set(shown) <= {"rlimits", "landlock", "seccomp"}


def test_decoders_end_with_the_server(tmp_path: Path):
    with serving_process(None, tmp_path / "log") as (_, process):
        decoders = _decoders(psutil.Process(process.pid))
        assert len(decoders) == 2
    wait_until(lambda: not any(decoder.is_running() for decoder in decoders))


def _memory(process: psutil.Process) -> int:
    """Memory of a server and its processes in bytes; shared pages count once."""
    return sum(each.memory_full_info().pss for each in [process, *process.children(recursive=True)])
