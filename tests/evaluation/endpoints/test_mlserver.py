"""A server that is not ours: MLServer, downloaded beside this environment."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx
import numpy as np
import pytest

from abnn_serve import evaluate
from abnn_serve.evaluation.endpoints.open import open_endpoint
from abnn_serve.evaluation.endpoints.options import EndpointOptions
from abnn_serve.evaluation.foreign.classifier import open_classifier
from abnn_serve.evaluation.foreign.preprocess import read_preprocess
from abnn_serve.lab.data.load import load_data
from tests.evaluation.foreign.conftest import labelled  # noqa: F401

pytestmark = pytest.mark.slow

RUNTIME = Path(__file__).with_name("mlserver_runtime.py")


@pytest.fixture(scope="module")
def mlserver(tmp_path_factory) -> Path:
    """The packages; skips if they cannot be installed."""
    folder = tmp_path_factory.mktemp("mlserver") / "packages"
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--target", folder, "mlserver==1.7.1"]
    done = subprocess.run(install, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"cannot install mlserver: {done.stderr.splitlines()[-1:]}")
    return folder


@pytest.fixture
def served(mlserver, labelled, tmp_path):  # noqa: F811
    """The address of a model that MLServer serves, its file and its data."""
    path, data = labelled
    folder = tmp_path / "model"
    folder.mkdir()
    shutil.copy(RUNTIME, folder / "runtime.py")
    ports = [_free_port() for _ in range(3)]
    settings = dict(zip(("http_port", "grpc_port", "metrics_port"), ports, strict=True))
    (folder / "settings.json").write_text(json.dumps({**settings, "host": "127.0.0.1", "parallel_workers": 0}))
    tensors = {
        "inputs": [{"name": "pixels", "datatype": "FP32", "shape": [-1, 3, 32, 32]}],
        "outputs": [{"name": "scores", "datatype": "FP32", "shape": [-1, 3]}],
    }
    model = {"name": "tiny", "implementation": "runtime.OnnxModel", "parameters": {"uri": str(path)}, **tensors}
    (folder / "model-settings.json").write_text(json.dumps(model))
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-c", "from mlserver.cli import main; main()", "start", str(folder)],
            env={**os.environ, "PYTHONPATH": f"{mlserver}:{folder}"}, stdout=log, stderr=subprocess.STDOUT,
        )  # fmt: skip
    root = f"http://127.0.0.1:{ports[0]}"
    try:
        _wait(process, root, tmp_path / "log")
        yield f"{root}/v2/models/tiny", path, data
    finally:
        process.terminate()
        process.wait(30)


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def _wait(process, root, log) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        assert process.poll() is None, log.read_text()
        try:
            if httpx.get(f"{root}/v2/models/tiny/ready").is_success:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.2)
    raise AssertionError(log.read_text())


def test_mlserver_is_evaluated_as_the_file_behind_it_is(served, tmp_path):
    address, path, data = served
    classifier = open_classifier(path, read_preprocess("cifar10"))
    asked = open_endpoint(address, EndpointOptions(), folder=tmp_path, attacked=True, preprocess="cifar10")
    dataset = load_data(data, asked.input)
    asked.prepare(dataset)
    answers = asked.logits(dataset.images)
    asked.close()
    np.testing.assert_allclose(answers, classifier.logits(dataset.images), atol=1e-3)
    options = {"preprocess": "cifar10", "images": 32, "queries": 60, "eps": 24 / 255}
    card = evaluate(address, data, out=tmp_path / "endpoint", **options)
    itself = evaluate(path, data, threats=["blackbox"], out=tmp_path / "file", **options)
    assert card.endpoint.scores == "probabilities"
    assert set(card.endpoint.answers) == {"200"}
    assert card.clean == itself.clean
    left = [each.worst["blackbox"].correct for each in (card, itself)]
    assert max(left) < card.clean.correct
    assert abs(left[0] - left[1]) <= 6  # batches of 16 and of 50 draw other squares
