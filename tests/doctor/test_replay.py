"""What the doctor finds in sessions that are right, and in sessions that are wrong in one way."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest

from abnn_serve.bundle.store import Bundle, load_bundle
from abnn_serve.doctor.replay import (
    batch_sizes,
    count_captures,
    cpu_error,
    neighbour_error,
    replay_in_thread,
    replay_shuffled,
)
from abnn_serve.errors import DeviceError
from abnn_serve.runtime.session import Session
from tests.cuda_stub.process import ROOT


@pytest.fixture(scope="module")
def shipped() -> Bundle:
    return load_bundle(ROOT / "models" / "cifar10-abnn")


@pytest.fixture(scope="module")
def run(shipped):
    return Session(shipped, "cpu", threads=1).run


def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def test_the_sizes_are_the_buckets_of_the_cuda_engine():
    from abnn_serve.runtime.cuda import bucket_sizes
    from abnn_serve.runtime.engine import max_batch

    assert all(batch_sizes(max_batch(frames)) == bucket_sizes(frames) for frames in (1, 3, 8, 64))


def test_a_right_session_reproduces_the_golden_logits_at_every_size_among_noise_and_in_a_thread(run, shipped):
    replay = replay_shuffled(run, shipped.golden, 8, rng(), seconds=0, rounds=3)
    assert (replay.rounds, [at.batch for at in replay.latencies]) == (2, [1, 2, 4, 8])
    assert all(0 < at.p50 <= at.p95 for at in replay.latencies)
    assert replay.error < 1e-4
    assert neighbour_error(run, shipped.golden, 8, rng()) < 1e-4
    error, seconds = replay_in_thread(run, shipped.golden, 8)
    assert error < 1e-4
    assert count_captures(seconds, replay.latencies) == 0


def test_no_more_rounds_run_than_asked_for(run, shipped):
    assert replay_shuffled(run, shipped.golden, 2, rng(), seconds=60, rounds=3).rounds == 3


def test_a_session_that_depends_on_the_batch_is_found(run, shipped):
    def mixed(images):
        logits = run(images)
        return logits + 0.01 * logits.mean(axis=0)

    assert neighbour_error(mixed, shipped.golden, 4, rng()) > 1e-3


def test_a_size_that_replays_another_size_s_samples_is_found(run, shipped):
    last = {}

    def stale(images):
        logits = last.get(4) if len(images) == 4 and 4 in last else run(images)
        last[len(images)] = logits
        return logits

    assert replay_shuffled(stale, shipped.golden, 4, rng(), seconds=0).error > 1e-3


def test_a_session_that_captures_again_in_another_thread_is_found(shipped):
    seen = {(threading.get_ident(), size) for size in (1, 2, 4)}
    samples = {
        sample.tobytes(): logits for sample, logits in zip(shipped.golden.inputs, shipped.golden.logits, strict=True)
    }

    def captured_by_thread(images):
        key = (threading.get_ident(), len(images))
        if key not in seen:
            seen.add(key)
            time.sleep(0.3)
        return np.stack([samples[image.tobytes()] for image in images])

    latencies = replay_shuffled(captured_by_thread, shipped.golden, 4, rng(), seconds=0, rounds=4).latencies
    assert count_captures(replay_in_thread(captured_by_thread, shipped.golden, 4)[1], latencies) == 3


def test_an_engine_is_compared_with_the_cpu_on_five_hundred_random_images(run, shipped):
    seen = []

    def other(images):
        seen.append(len(images))
        return run(images) + 0.25

    shape = shipped.manifest.input.shape
    assert cpu_error(run, run, shape, rng(), frames=8) == 0
    assert cpu_error(other, run, shape, rng(), frames=8) == pytest.approx(0.25, abs=1e-5)
    assert cpu_error(other, run, shape, rng(), frames=1024) == pytest.approx(0.25, abs=1e-5)
    assert seen == [64, 1]


def test_logits_that_are_not_finite_are_an_error(run, shipped):
    with pytest.raises(DeviceError, match="logits are not finite"):
        replay_shuffled(lambda images: run(images) * np.nan, shipped.golden, 2, rng(), seconds=0)
