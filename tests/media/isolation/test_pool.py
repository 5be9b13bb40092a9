"""Decoding processes against real files: what they return, and what hostile files cost others."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import pytest
from PIL import Image

from abnn_serve.errors import DecoderError, InputError, TooCostlyError, UnreadableInputError
from abnn_serve.media.headers.header import Header
from abnn_serve.media.image import check_header, load_image
from abnn_serve.media.isolation.budget import image_budget
from abnn_serve.media.isolation.messages import KEPT_BYTES
from abnn_serve.media.isolation.pool import DecoderPool
from abnn_serve.media.limits import ImageLimits, VideoLimits
from abnn_serve.media.video import decode_video
from abnn_serve.spec import InputSpec, Sampling
from tests.drawing import draw_shape, encode_video, moving_square, png
from tests.media import crafted
from tests.service.server import wait_until

SPEC = InputSpec(height=32, width=32)
CLIPS = InputSpec(height=16, width=16, sampling=Sampling(frames=4, stride=2, clips=3, crops=3))
LIMITS, VIDEO_LIMITS = ImageLimits(), VideoLimits()
IMAGE = png(draw_shape(1, np.random.default_rng(3), 50))
SLOW = crafted.slow_jpeg()


def _outcome(decode: Callable[[], object]) -> object:
    try:
        return decode()
    except InputError as error:
        return type(error), str(error)


def _same_image(pool: DecoderPool, data: bytes) -> None:
    here = _outcome(lambda: load_image(data, SPEC, LIMITS).tobytes())
    assert _outcome(lambda: pool.image(data, SPEC, LIMITS).tobytes()) == here


def _same_video(pool: DecoderPool, data: bytes, spec: InputSpec = CLIPS) -> None:
    def described(clips):
        counts = clips.seconds, clips.expected, clips.found, clips.decoded, clips.lost
        return clips.pixels.tobytes(), clips.frames.tobytes(), clips.times.tobytes(), counts

    here = _outcome(lambda: described(decode_video(data, spec, VIDEO_LIMITS)))
    assert _outcome(lambda: described(pool.video(data, spec, VIDEO_LIMITS))) == here


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "AVIF"])
def test_images_have_the_pixels_and_errors_of_decoding_in_the_same_process(pool, deaths, kind):
    out = io.BytesIO()
    draw_shape(1, np.random.default_rng(1), 70).save(out, kind)
    data = out.getvalue()
    for part in (data, data[: len(data) // 2], data[:20], b"", b"text"):
        _same_image(pool, part)
    assert not deaths


@pytest.mark.parametrize(
    ("container", "codec", "pixels"),
    [
        ("mp4", "libx264", "yuv420p"),
        ("mp4", "libx265", "yuv420p10le"),
        ("mp4", "libsvtav1", "yuv420p"),
        ("webm", "libvpx-vp9", "yuva420p"),
        ("mov", "prores_ks", "yuv422p10le"),
        ("mov", "mjpeg", "yuvj420p"),
        ("avi", "msmpeg4v3", "yuv420p"),
        ("mpegts", "mpeg2video", "yuv420p"),
        ("flv", "flv1", "yuv420p"),
    ],
)
def test_every_codec_works_without_files_and_threads(pool, deaths, container, codec, pixels):
    options = {"log-level": "none"} if codec == "libx265" else {}
    data = encode_video(moving_square(12, 64), container=container, codec=codec, pixels=pixels, options=options)
    for part in (data, data[: len(data) // 2], data[:50]):
        _same_video(pool, part)
    assert not deaths


@pytest.mark.data
def test_odd_and_broken_files_have_the_same_outcome(pool, deaths, data_folder: Path):
    files = [path for path in sorted((data_folder / "odd-media").glob("*/*")) if path.is_file()]
    assert len(files) > 80
    for path in files:
        (_same_video if path.parent.name == "videos" else _same_image)(pool, path.read_bytes())
    assert not deaths


def test_little_shared_memory_is_kept_between_tasks(pool):
    large = png(Image.fromarray(np.random.default_rng(0).integers(0, 256, (1500, 1500, 3), np.uint8)))
    assert len(large) > KEPT_BYTES
    pool.image(large, SPEC, LIMITS)
    assert all(os.fstat(process.memory).st_size <= KEPT_BYTES for process in pool._idle)


def test_a_header_that_was_read_already_is_not_read_again(pool, monkeypatch):
    header = check_header(IMAGE, LIMITS)
    monkeypatch.setattr("abnn_serve.media.isolation.pool.check_header", None)
    np.testing.assert_array_equal(pool.image(IMAGE, SPEC, LIMITS, header), load_image(IMAGE, SPEC, LIMITS))


def test_a_file_that_takes_too_long_costs_its_process_and_nobody_else_anything(pool, deaths):
    before = pool.pids
    with ThreadPoolExecutor() as threads:
        slow = threads.submit(pool.image, SLOW, SPEC, ImageLimits(decode_seconds=0.05))
        for _ in range(5):
            np.testing.assert_array_equal(pool.image(IMAGE, SPEC, LIMITS), load_image(IMAGE, SPEC, LIMITS))
        with pytest.raises(TooCostlyError, match=r"decoding the image takes more than 0.1 s, which is the limit"):
            slow.result()
    assert deaths == {"time": 1}
    wait_until(lambda: len(pool.pids) == 2)
    assert len({*pool.pids} & {*before}) == 1


def test_too_much_memory_is_an_error_of_the_file_and_the_process_is_replaced(pool, deaths, monkeypatch):
    budget = replace(image_budget(Header(), 0, SPEC, LIMITS), memory_bytes=2_000_000)
    monkeypatch.setattr("abnn_serve.media.isolation.pool.image_budget", lambda *_: budget)
    with pytest.raises(TooCostlyError, match="takes more than 2 MB, which is the limit for its size"):
        pool.image(png(Image.new("RGB", (3000, 2000))), SPEC, LIMITS)
    assert deaths == {"memory": 1}


@pytest.mark.parametrize(
    ("number", "cause", "error"),
    [
        (signal.SIGXCPU, "time", TooCostlyError),
        (signal.SIGSEGV, "crash", UnreadableInputError),
        (signal.SIGSYS, "system_call", UnreadableInputError),
    ],
)
def test_a_signal_that_ends_a_process_is_counted_by_its_cause(pool, deaths, number, cause, error):
    with ThreadPoolExecutor() as threads:
        running = threads.submit(pool.image, SLOW, SPEC, LIMITS)
        wait_until(lambda: pool.busy_pids != [])
        os.kill(pool.busy_pids[0], number)
        with pytest.raises(error):
            running.result()
    assert deaths == {cause: 1}
    np.testing.assert_array_equal(pool.image(IMAGE, SPEC, LIMITS), load_image(IMAGE, SPEC, LIMITS))


def test_a_task_whose_process_somebody_killed_is_tried_again(pool, deaths):
    with ThreadPoolExecutor() as threads:
        running = threads.submit(pool.image, SLOW, SPEC, LIMITS)
        wait_until(lambda: pool.busy_pids != [])
        os.kill(pool.busy_pids[0], signal.SIGKILL)
        assert running.result().shape == (32, 32, 3)
    assert deaths == {"killed": 1}


def test_processes_killed_while_idle_are_replaced_and_until_then_the_pool_is_not_ready(pool, deaths):
    processes = [psutil.Process(pid) for pid in pool.pids]
    for process in processes:
        process.kill()
    wait_until(lambda: all(process.status() == psutil.STATUS_ZOMBIE for process in processes))
    assert not pool.is_ready
    wait_until(lambda: len(pool.pids) == 2)
    assert deaths == {"killed": 2}
    np.testing.assert_array_equal(pool.image(IMAGE, SPEC, LIMITS), load_image(IMAGE, SPEC, LIMITS))


def test_a_large_file_leaves_a_process_for_small_ones(pool):
    large = png(Image.new("RGB", (3000, 2000)))
    with ThreadPoolExecutor() as threads:
        running = [threads.submit(pool.image, large, SPEC, LIMITS) for _ in range(3)]
        wait_until(lambda: pool.busy_pids != [])
        pool.image(IMAGE, SPEC, LIMITS)
        assert not all(task.done() for task in running)
        assert all(task.result().shape == (32, 32, 3) for task in running)


def test_a_cancelled_video_stops_and_its_process_goes_on(pool, deaths):
    video, cancelled = encode_video(moving_square(12, 240, 320) * 20, codec="mpeg4"), threading.Event()
    spec = InputSpec(height=256, width=256, interpolation="lanczos", sampling=Sampling(frames=240))
    with ThreadPoolExecutor() as threads:
        running = threads.submit(pool.video, video, spec, VIDEO_LIMITS, is_cancelled=cancelled.is_set)
        wait_until(lambda: pool.busy_pids != [])
        cancelled.set()
        with pytest.raises(InputError, match="decoding was cancelled"):
            running.result()
    assert not deaths
    _same_video(pool, video)


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
def test_a_process_has_no_secrets_and_no_descriptors_but_its_own(pool, monkeypatch):
    assert pool.mechanisms[0] == "rlimits"
    for pid in pool.pids:
        environment = Path(f"/proc/{pid}/environ").read_bytes()
        assert b"HOME=" not in environment
        assert b"PATH=" not in environment.replace(b"PYTHONPATH=", b"").replace(b"LD_LIBRARY_PATH=", b"")
        assert sorted(path.name for path in Path(f"/proc/{pid}/fd").iterdir()) == ["0", "1", "2", "3", "4"]


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
def test_processes_end_with_the_one_that_started_them():
    code = """
import sys
from abnn_serve.media.isolation.pool import DecoderPool
pool = DecoderPool(2)
pool.start()
print(*pool.pids, flush=True)
sys.stdin.read()
"""
    with subprocess.Popen([sys.executable, "-c", code], stdin=-1, stdout=-1, text=True) as parent:
        pids = parent.stdout.readline().split()
        assert len(pids) == 2
        parent.kill()
    wait_until(lambda: not any(Path(f"/proc/{pid}/cwd").exists() for pid in pids))


def test_a_closed_pool_says_so():
    pool = DecoderPool(1)
    pool.start()
    pool.close()
    assert not pool.is_ready
    with pytest.raises(DecoderError, match="have been stopped"):
        pool.image(IMAGE, SPEC, LIMITS)
