"""A GPU for each worker process."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from abnn_serve.errors import ConfigError
from abnn_serve.service import gpus, worker
from abnn_serve.service.gpus import take_gpu
from tests.cuda_stub.process import ROOT


@pytest.fixture(autouse=True)
def _release():
    yield
    while gpus._held:
        gpus._held.pop().release()


def test_workers_take_different_gpus_and_share_them_evenly_if_there_are_too_few(tmp_path):
    assert [take_gpu(2, tmp_path / "locks") for _ in range(5)] == [0, 1, 0, 1, 0]


def test_the_gpu_of_a_worker_that_was_killed_is_free_again(tmp_path):
    code = "import sys; from pathlib import Path; from abnn_serve.service.gpus import take_gpu\n"
    code += "print(take_gpu(2, Path(sys.argv[1])), flush=True); input()"
    command = [sys.executable, "-c", code, str(tmp_path)]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout
        assert other.stdout.readline() == "0\n"
        assert take_gpu(2, tmp_path) == 1
        other.kill()
        other.wait()
    assert take_gpu(2, tmp_path) == 0


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give a folder away")
def test_a_folder_of_another_user_is_refused(tmp_path):
    os.chown(tmp_path, 12345, -1)
    with pytest.raises(ConfigError, match="belongs to another user"):
        take_gpu(2, tmp_path)


@pytest.mark.parametrize(("count", "own"), [(0, None), (1, None), (4, 0)])
def test_a_worker_chooses_only_between_several_gpus(count, own, monkeypatch, tmp_path):
    monkeypatch.setattr(worker, "cuda_devices", lambda: count)
    monkeypatch.setattr(worker, "take_gpu", lambda gpus: take_gpu(gpus, tmp_path))
    assert worker._own_gpu() == own
