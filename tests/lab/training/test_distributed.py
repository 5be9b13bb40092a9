from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from abnn_serve.errors import TrainingError
from abnn_serve.lab.training.distributed import ALONE, Workers
from abnn_serve.lab.training.recipes import RECIPES
from abnn_serve.lab.training.run import Run
from abnn_serve.lab.training.train import _check_workers, train
from tests.conftest import request_for

_SCRIPT = """
import sys
from dataclasses import replace
from abnn_serve.lab.training.recipe_settings import with_settings
from abnn_serve.lab.training.train import train
from tests.conftest import request_for

request = request_for({"train": sys.argv[1], "val": sys.argv[2]}, "n-fgsm", epochs=1, lr=0.02)
train(replace(request, recipe=with_settings(request.recipe, sys.argv[4:])), sys.argv[3])
"""


def _torchrun(script: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", str(script)]
    return subprocess.run(
        [*command, *arguments],
        cwd=Path(__file__).parents[3],
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[3])},
        capture_output=True,
        text=True,
        check=False,
    )


def test_two_processes_end_with_the_weights_of_one(shapes, tmp_path):
    script = tmp_path / "script.py"
    script.write_text(_SCRIPT)
    settings = ["weight_perturbation=0.005", "self_distillation=0.3"]
    done = _torchrun(script, shapes["train"], shapes["val"], str(tmp_path / "two"), *settings)
    assert done.returncode == 0, done.stderr
    alone = subprocess.run(
        [sys.executable, str(script), shapes["train"], shapes["val"], str(tmp_path / "one"), *settings],
        cwd=Path(__file__).parents[3],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])},
        check=True,
    )
    assert alone.returncode == 0
    two, one = Run(tmp_path / "two"), Run(tmp_path / "one")
    weights = two.network().state_dict()
    for name, value in one.network().state_dict().items():
        assert torch.allclose(weights[name].float(), value.float(), atol=2e-3, rtol=2e-3), name
    assert two.metrics[0]["loss"] == pytest.approx(one.metrics[0]["loss"], abs=1e-3)
    assert two.config == one.config


def test_the_shares_of_a_batch_cover_it_in_order():
    batch = torch.arange(8)
    assert torch.cat([Workers(rank, 4).share(batch) for rank in range(4)]).equal(batch)
    assert ALONE.share(batch).equal(batch)


@pytest.mark.parametrize(
    ("recipe", "count", "message"),
    [
        ("standard", 3, "--batch-size is 256, expected a multiple of the 3 processes"),
        ("nuat", 2, "expected one process"),
    ],
)
def test_batches_that_processes_cannot_share_are_refused(recipe, count, message):
    with pytest.raises(TrainingError, match=message):
        _check_workers(RECIPES[recipe], Workers(0, count))
    _check_workers(RECIPES[recipe], ALONE)


def test_one_process_joins_no_group(shapes, tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "1")
    assert train(request_for(shapes, epochs=1), tmp_path / "run").metrics
    assert not torch.distributed.is_initialized()
