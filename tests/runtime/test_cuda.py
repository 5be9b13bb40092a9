from __future__ import annotations

import gc
import threading
from types import SimpleNamespace

import numpy as np
import pytest

import abnn_serve.runtime.cuda_library as cuda_library
from abnn_serve.runtime.cuda import CudaEngine, _Loaded, _lock_pages, bucket_sizes
from abnn_serve.runtime.drift import DriftMeter
from abnn_serve.runtime.engine import CPU, GPU_LOCK, Port, gpu_lock, max_batch
from abnn_serve.runtime.gpu_thread import GpuThread
from abnn_serve.runtime.session import Session


@pytest.mark.parametrize("frames", range(1, 65))
def test_every_batch_of_a_session_has_a_bucket_whatever_the_frames(frames):
    sizes = bucket_sizes(frames)
    assert sizes[-1] == max_batch(frames) == max(1, 64 // frames)
    assert sizes == sorted(set(sizes))
    for count in range(1, max_batch(frames) + 1):
        bucket = next(size for size in sizes if size >= count)
        assert bucket < 2 * count


def test_buckets_are_powers_of_two_and_the_largest_batch():
    assert bucket_sizes(1) == [1, 2, 4, 8, 16, 32, 64]
    assert bucket_sizes(3) == [1, 2, 4, 8, 16, 21]
    assert bucket_sizes(65) == bucket_sizes(64) == [1]


def test_the_frames_of_a_sample_are_read_from_the_input():
    assert Port("image", "uint8", (None, 32, 32, 3)).frames == 1
    assert Port("video", "uint8", (None, 8, 16, 16, 3)).frames == 8


def test_all_that_use_the_gpu_take_turns_and_the_cpu_waits_for_nobody():
    assert gpu_lock([("CUDAExecutionProvider", {}), CPU]) is GPU_LOCK
    assert gpu_lock((CPU,)) is not GPU_LOCK


def test_a_run_waits_while_another_engine_is_made():
    engine, seen = CudaEngine.__new__(CudaEngine), []  # as one that was made where there is CUDA
    engine._thread, engine._loaded = GpuThread(), _Loaded.__new__(_Loaded)
    engine._loaded.buckets = [SimpleNamespace(shape=(4,), run=lambda images: [len(images)])]
    waiting = threading.Thread(target=lambda: seen.append(engine.run(np.zeros((3, 1), np.uint8))))
    with GPU_LOCK:
        waiting.start()
        waiting.join(0.2)
        assert seen == []
    waiting.join()
    assert seen == [3]


class _Runtime(SimpleNamespace):
    """Where there is no CUDA: what was asked of its library."""

    def __init__(self, code: int = 0) -> None:
        super().__init__(locked=[], unlocked=[], code=code, cleared=0)

    def cudaHostRegister(self, address, size, flags):  # noqa: N802
        self.locked.append((address.value, size.value))
        return self.code

    def cudaGetLastError(self):  # noqa: N802
        self.cleared += 1

    def cudaHostUnregister(self, address):  # noqa: N802
        self.unlocked.append(address.value)


@pytest.mark.parametrize(("code", "unlocked"), [(0, 1), (712, 0)])
def test_pages_that_were_locked_are_unlocked_when_their_buffer_goes(code, unlocked, monkeypatch):
    runtime = _Runtime(code)
    monkeypatch.setattr(cuda_library.ctypes, "CDLL", lambda name: runtime)
    buffer = np.zeros(1000, np.uint8)
    address = buffer.ctypes.data
    _lock_pages(buffer)
    assert (runtime.locked, runtime.unlocked) == ([(address, 1000)], [])
    assert runtime.cleared == 1 - unlocked  # ONNX Runtime would take the error for its next kernel's
    del buffer
    gc.collect()
    assert runtime.unlocked == [address] * unlocked


@pytest.mark.gpu
def test_cuda_runs_clips_at_every_batch(video_bundle):
    model = video_bundle.read("model.onnx")
    engine, shape = CudaEngine(model), video_bundle.manifest.input.shape
    for count in range(1, max_batch(engine.inputs[0].frames) + 1):
        assert len(engine.run(np.zeros((count, *shape), np.uint8))) == count


@pytest.mark.gpu
def test_engines_are_made_and_freed_beside_one_that_answers(bundle):
    model, images = bundle.read("model.onnx"), bundle.golden.inputs
    engine, stop, seen = CudaEngine(model), threading.Event(), []

    def answer() -> None:
        while not stop.is_set():
            seen.append(np.abs(engine.run(images) - bundle.golden.logits).max())

    answering = threading.Thread(target=answer)
    answering.start()
    try:
        for _ in range(5):
            other = CudaEngine(model)
            assert other.graphs == engine.graphs
            del other
    finally:
        stop.set()
        answering.join()
    assert max(seen) < 1e-3


@pytest.mark.gpu
def test_drift_is_measured_with_the_arithmetic_that_serves(bundle):
    session = Session(bundle, "cuda")
    meter = DriftMeter(session)
    assert meter._engine._loaded.session.get_provider_options()["CUDAExecutionProvider"]["use_tf32"] == "0"
    np.testing.assert_allclose(meter.run(bundle.golden.inputs)[0], session.run(bundle.golden.inputs), atol=1e-4)
