"""The commands in a bento, which leaves out training, export and evaluation."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]

HELP = ["--help", "predict --help", "score --help", "train --help"]
LAB = [
    "train abnn --target resnet18 --data d --val v --out o",
    "average a b --data d --val v --out o",
    "export a --data d --out o",
    "evaluate a --data d",
]
RUN_ALL = """
import contextlib, io, json, sys
import abnn_serve.cli.main
results = {"imported from": abnn_serve.__file__}
for line in json.loads(sys.argv.pop()):
    out, err = io.StringIO(), io.StringIO()
    sys.argv[1:], status = line.split(), 0
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            abnn_serve.cli.main.main()
        except SystemExit as end:
            status = end.code
    results[line] = [status, out.getvalue(), err.getvalue()]
print(json.dumps(results))
"""


@pytest.fixture(scope="module")
def bento(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the package as bentofile.yaml packs it."""
    patterns = yaml.safe_load((ROOT / "bentofile.yaml").read_text())["exclude"]
    assert {"abnn_serve/lab/**", "abnn_serve/export/**", "abnn_serve/evaluation/**"} <= set(patterns)
    folder = tmp_path_factory.mktemp("bento")
    shutil.copytree(ROOT / "abnn_serve", folder / "abnn_serve", ignore=shutil.ignore_patterns("__pycache__"))
    for pattern in patterns:
        shutil.rmtree(folder / pattern.removesuffix("/**"))
    return folder


@pytest.fixture(scope="module")
def results(bento: Path) -> dict:
    """Exit status, stdout and stderr of every command line, all run in one process."""
    env = {**os.environ, "PYTHONPATH": str(bento), "COLUMNS": "200", "NO_COLOR": "1"}
    command = [sys.executable, "-c", RUN_ALL, json.dumps([*HELP, *LAB])]
    result = subprocess.run(command, cwd=bento, env=env, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


def test_the_command_line_is_imported_from_the_bento(bento, results):
    assert results["imported from"] == str(bento / "abnn_serve" / "__init__.py")


@pytest.mark.parametrize("arguments", HELP)
def test_help_is_printed(results, arguments):
    status, stdout, _ = results[arguments]
    assert status == 0
    assert "Usage: " in stdout


@pytest.mark.parametrize("arguments", LAB)
def test_commands_that_need_the_lab_say_what_to_install(results, arguments):
    status, _, stderr = results[arguments]
    assert status == 1
    assert re.fullmatch(r"abnn: .* cannot train, evaluate or export; .*: pip install 'abnn_serve\[lab\]'\n", stderr)
