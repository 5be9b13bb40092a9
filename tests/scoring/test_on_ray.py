from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import uuid
from pathlib import Path

import psutil
import pytest

from abnn_serve.errors import ConfigError, ScoringError
from abnn_serve.scoring.on_ray import RayPool
from abnn_serve.scoring.score import score
from tests.drawing import write_parquet
from tests.scoring.conftest import fingerprint, table


@pytest.fixture(scope="module")
def _cluster():
    ray = pytest.importorskip("ray")
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


@pytest.fixture
def parquet(pictures, tmp_path) -> Path:
    """1,200 rows, every 100th of them damaged."""
    images = [pictures[i % 40] if i % 100 else b"no picture" for i in range(1200)]
    write_parquet(tmp_path / "rows.parquet", images, [i % 3 for i in range(1200)], classes=("cat", "dog", "frog"))
    return tmp_path / "rows.parquet"


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:::ray", "ignore:::pandas")
@pytest.mark.usefixtures("_cluster")
class TestOnRay:
    def test_the_output_is_the_local_engines_and_each_goes_on_where_the_other_was_stopped(
        self, served, parquet, tmp_path
    ):
        score(served, str(parquet), tmp_path / "local", shard_rows=100)
        with pytest.raises(ScoringError, match="--max-errors allows 4"):
            score(served, str(parquet), tmp_path / "ray", shard_rows=100, max_errors=4)
        summary = score(served, str(parquet), tmp_path / "ray", shard_rows=100, ray=RayPool(actors=2))
        assert (summary.rows, summary.errors) == (1200, 12)
        assert fingerprint(tmp_path / "ray") == fingerprint(tmp_path / "local")

    def test_actors_use_the_device_that_was_asked_for(self, served, parquet, tmp_path):
        pytest.importorskip("openvino")
        score(served, str(parquet), tmp_path / "ray", shard_rows=600, ray=RayPool(device="openvino"))
        found = table(tmp_path / "ray")
        assert set(found["provider"].to_pylist()) == {"OpenVINO"}
        assert set(found["bundle"].to_pylist()) == {served.bundle.digest}

    def test_a_killed_actor_loses_and_repeats_nothing(self, served, parquet, tmp_path):
        score(served, str(parquet), tmp_path / "local", shard_rows=40)
        killed = []

        def kill_one(rows: int, errors: int) -> None:
            workers = [p for p in psutil.process_iter(["cmdline"]) if "MapWorker" in " ".join(p.info["cmdline"] or [])]
            if not killed and workers:
                killed.append(workers[0].pid)
                workers[0].kill()

        score(served, str(parquet), tmp_path / "ray", shard_rows=40, ray=RayPool(actors=2), on_rows=kill_one)
        assert killed
        assert fingerprint(tmp_path / "ray") == fingerprint(tmp_path / "local")
        ids = table(tmp_path / "ray")["id"].to_pylist()
        assert len(set(ids)) == len(ids) == 1200

    def test_errors_of_actors_are_one_line(self, served, parquet, tmp_path):
        with pytest.raises(ScoringError, match=r"ray: \d+ rows have errors, --max-errors allows 2"):
            score(served, str(parquet), tmp_path / "ray", shard_rows=100, ray=RayPool(), max_errors=2)
        done = [json.loads(line) for line in (tmp_path / "ray" / "done.jsonl").read_text().splitlines()]
        assert sum(line["errors"] for line in done) >= 3
        with pytest.raises(ScoringError, match=r"No such file or directory: .*rows.parquet"):
            score(served, str(parquet), tmp_path / "gone", ray=RayPool(), on_start=lambda _: parquet.unlink())


@pytest.fixture
def elsewhere():
    """A cluster of its own processes, which asks for a token: its address, and the environment of those who have it."""
    pytest.importorskip("ray")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    own = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": uuid.uuid4().hex, "RAY_USAGE_STATS_ENABLED": "0"}
    env = {**os.environ, **own, "PYTHONPATH": str(Path(__file__).parents[2]), "ABNN_DEVICE": "cpu"}
    command = [Path(sys.executable).with_name("ray"), "start", "--head", "--block", "--num-cpus=2", f"--port={port}"]
    with subprocess.Popen(
        [*command, "--include-dashboard=false"], env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as head:
        assert any("Ray runtime started" in line for line in head.stdout)
        yield f"127.0.0.1:{port}", env
        head.terminate()


@pytest.mark.slow
def test_a_cluster_elsewhere_scores_as_the_local_engine_and_goes_on(served, parquet, elsewhere, tmp_path):
    address, env = elsewhere
    score(served, str(parquet), tmp_path / "local", shard_rows=100)
    command = [sys.executable, "-c", "from abnn_serve.cli.main import main; main()", "score", str(parquet)]
    command += ["--shard-rows", "100", "--engine", "ray", "--address", address, "--out", str(tmp_path / "ray")]

    def run(*more: str, **changed: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*command, *more], env={**env, **changed}, capture_output=True, text=True, check=False, timeout=300
        )

    assert "set RAY_AUTH_MODE=token" in run(RAY_AUTH_MODE="disabled").stderr.splitlines()[-1]
    assert "--max-errors allows 3" in run("--max-errors", "3").stderr
    assert run("--actors", "2").returncode == 0
    assert fingerprint(tmp_path / "ray") == fingerprint(tmp_path / "local")


@pytest.mark.parametrize(
    ("device", "gpus", "found"),
    [
        ("auto", 0, "cpu"),
        ("auto", 0.5, "cuda"),
        ("cpu", 0, "cpu"),
        ("openvino", 0, "openvino"),
        ("cuda", 1, "cuda"),
        ("tensorrt", 1, "tensorrt"),
    ],
)
def test_actors_run_where_the_settings_say(device, gpus, found):
    assert RayPool(device=device, gpus=gpus).actor_device == found


@pytest.mark.parametrize(
    ("device", "gpus", "message"),
    [
        ("cuda", 0, "ABNN_DEVICE is 'cuda', but --gpus is 0; add --gpus 1"),
        ("openvino", 0.5, "ABNN_DEVICE is 'openvino', but --gpus is 0.5; drop --gpus or set ABNN_DEVICE=cuda"),
    ],
)
def test_a_device_and_gpus_that_do_not_fit_are_refused(device, gpus, message):
    with pytest.raises(ConfigError, match=message):
        RayPool(device=device, gpus=gpus)


def test_a_pool_of_nothing_is_refused():
    with pytest.raises(ConfigError, match="the pool has 0 actors"):
        RayPool(actors=0)
