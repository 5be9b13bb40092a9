"""A bento serves without the checkout it was built from."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from abnn_serve.runtime.settings import DEFAULT_BUNDLE
from tests.drawing import draw_shape, png
from tests.service.server import serving_bento

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_a_bento_serves_from_another_folder_with_the_checkout_gone(tmp_path):
    checkout = tmp_path / "checkout"
    shutil.copytree(ROOT, checkout, ignore=shutil.ignore_patterns(".*", "runs", "tests"))
    home = {"BENTOML_HOME": str(tmp_path / "home"), "ABNN_THREADS": "1"}
    subprocess.run([sys.executable, "-m", "bentoml", "build"], cwd=checkout, env={**os.environ, **home}, check=True)
    shutil.rmtree(checkout)
    (tmp_path / "elsewhere").mkdir()
    picture = png(draw_shape(0, np.random.default_rng(0)))
    with serving_bento("abnn_serve:latest", tmp_path / "log", tmp_path / "elsewhere", home) as client:
        answer = client.post("/classify", files={"image": picture})
        assert answer.status_code == 200
        assert answer.json()["model"]["name"] == DEFAULT_BUNDLE
