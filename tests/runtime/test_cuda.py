from __future__ import annotations

import numpy as np
import pytest

from abnn_serve.runtime.cuda import CudaEngine, bucket_sizes
from abnn_serve.runtime.engine import Port, max_batch


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


@pytest.mark.gpu
def test_cuda_runs_clips_at_every_batch(video_bundle):
    model = video_bundle.read("model.onnx")
    engine, shape = CudaEngine(model), video_bundle.manifest.input.shape
    for count in range(1, max_batch(engine.inputs[0].frames) + 1):
        assert len(engine.run(np.zeros((count, *shape), np.uint8))) == count
