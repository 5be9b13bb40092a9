"""What the README tells a newcomer to type, typed."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np

from tests.drawing import draw_shape, png

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def test_the_first_screen_has_both_commands():
    first = "\n".join(README.splitlines()[:40])
    assert "make serve" in first
    assert "make test" in first


def test_the_python_example_runs(tmp_path):
    (tmp_path / "models").symlink_to(ROOT / "models")
    (tmp_path / "cat.png").write_bytes(png(draw_shape(0, np.random.default_rng(0))))
    (code,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    result = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert re.match(r"ClassScore\(index=\d, label='\w+', probability=0\.\d+\)", result.stdout)


def test_every_command_named_is_there():
    from abnn_serve.cli.main import app

    known = {command.callback.__name__ for command in app.registered_commands}
    named = set(re.findall(r"abnn (train|average|export|verify|show|predict|serve|score|bench|evaluate|key)\b", README))
    assert named == known


def test_nothing_was_left_to_fill_in():
    for page in (
        "README.md",
        "ARCHITECTURE.md",
        "CHANGELOG.md",
        "CONTRIBUTING.md",
        "models/README.md",
        "docs/sizing.md",
        "docs/performance.md",
        "docs/robustness.md",
    ):
        assert "@@" not in (ROOT / page).read_text(), page
