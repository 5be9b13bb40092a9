from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from abnn_serve.errors import ConfigError
from tests.drawing import draw_shape, png
from tests.service.server import serving

pytestmark = pytest.mark.filterwarnings("ignore:GitWildMatchPattern:DeprecationWarning")


@pytest.mark.slow
def test_an_exported_bundle_is_served_by_its_tag(abnn_run, shapes, tmp_path, monkeypatch):
    monkeypatch.setenv("BENTOML_HOME", str(tmp_path / "home"))
    command = [sys.executable, "-c", "from abnn_serve.cli.main import main; main()", "export", str(abnn_run.path)]
    options = ["--out", str(tmp_path / "mine"), "--data", shapes["val"], "--version", "Two!", "--bento-store"]
    said = subprocess.run([*command, *options], capture_output=True, text=True, check=True).stdout
    tag = said.splitlines()[-1].split("bento:")[1].split()[0]
    assert tag.startswith("mine:two--")
    (tmp_path / "mine").rename(tmp_path / "gone")
    with serving(Path(f"bento:{tag}"), tmp_path / "log") as client:
        answer = client.post("/classify", files={"image": png(draw_shape(0, np.random.default_rng(0)))})
        assert answer.json()["model"]["version"] == "Two!"


def test_a_tag_that_is_not_there_is_said(tmp_path):
    code = "from abnn_serve.service.model_store import find_in_store; find_in_store('bento:nix:1')"
    result = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        env={"BENTOML_HOME": str(tmp_path), "PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ConfigError.__name__ in result.stderr
    assert "the BentoML model store has no 'nix:1'" in result.stderr
