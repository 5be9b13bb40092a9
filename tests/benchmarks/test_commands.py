"""Every benchmark can be run from the checkout's root."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest

import benchmarks

ROOT = Path(benchmarks.__file__).parent
NAMES = sorted(path.stem for path in ROOT.glob("*.py") if path.stem != "__init__")


@pytest.mark.parametrize("name", NAMES)
def test_help_prints_the_question_and_the_options(name, monkeypatch, capsys):
    module = importlib.import_module(f"benchmarks.{name}")
    monkeypatch.setattr(sys, "argv", [f"{name}.py", "--help"])
    with pytest.raises(SystemExit) as exited:
        module.main()
    assert exited.value.code == 0
    output = capsys.readouterr().out
    assert output.startswith(f"usage: python -m benchmarks.{name}")
    question = module.__doc__.splitlines()[0]
    assert question.endswith("?")
    assert question in output
    assert "--out" in output


def test_the_readme_has_a_row_for_every_benchmark():
    rows = [line for line in (ROOT / "README.md").read_text().splitlines() if line.startswith("| ")]
    assert sorted(name for name in NAMES if any(f"`{name}" in row for row in rows)) == NAMES


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("hostile", ["--seconds", "12"], "--seconds is 12, expected more than 12"),
        ("reproduce", ["image"], "--train is missing; give it, or --data"),
        ("reproduce", ["image", "--data", "x", "--rows", "best"], "no row named 'best', expected some of substitute,"),
    ],
)
def test_wrong_arguments_exit_with_2_and_say_what_was_expected(name, arguments, message, monkeypatch, capsys):
    module = importlib.import_module(f"benchmarks.{name}")
    monkeypatch.setattr(sys, "argv", [f"{name}.py", *arguments])
    with pytest.raises(SystemExit) as exited:
        module.main()
    assert exited.value.code == 2
    assert message in capsys.readouterr().err
