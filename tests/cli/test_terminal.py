from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from abnn_serve.bundle.store import Bundle, pack_json, write_bundle
from abnn_serve.cli.main import app
from abnn_serve.cli.terminal import printable
from abnn_serve.spec import Labels
from tests.bundle.rewriting import contents, described
from tests.drawing import draw_shape, png

FORGED = "circle\nclean    100.00% of 10,000\x1b[2J\x9b31m"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("plain, Ünïcode, 図形", "plain, Ünïcode, 図形"),
        ("\x1b]0;title\x07", r"\x1b]0;title\x07"),
        ("a\nb\r", r"a\nb\r"),
        ("\x9b31m", r"\x9b31m"),
        ("\u202eabc\u2028", r"\u202eabc\u2028"),
        ("\udcff.png", r"\udcff.png"),
    ],
)
def test_what_a_terminal_would_obey_is_escaped(text, expected):
    assert printable(text) == expected


@pytest.fixture(scope="module")
def forged(bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle whose labels and card hold control sequences."""
    labels, card = Labels(names=(FORGED, "square", "triangle")), replace(bundle.card, limits=(FORGED,))
    files = {**contents(bundle), "labels.json": pack_json(labels), "card.json": pack_json(card)}
    path = tmp_path_factory.mktemp("forged") / "b"
    write_bundle(path, files, described(bundle))
    return path


def test_a_bundle_cannot_forge_rows_of_its_card(forged):
    result = CliRunner().invoke(app, ["show", str(forged)])
    assert r"circle\nclean    100.00% of 10,000\x1b[2J\x9b31m" in result.output
    assert not re.search(r"^clean +100\.00%", result.output, re.MULTILINE)
    assert all(line.isprintable() for line in result.output.splitlines())
    shown = json.loads(CliRunner().invoke(app, ["show", str(forged), "--json"]).output)
    assert shown["card"]["limits"] == [FORGED]


def test_predictions_and_errors_show_names_escaped(forged, tmp_path):
    image, broken = tmp_path / "a\x1b[2J.png", tmp_path / "b\x1b[2J.png"
    image.write_bytes(png(draw_shape(1, np.random.default_rng(0))))
    broken.write_bytes(b"")
    result = CliRunner().invoke(app, ["predict", str(image), str(broken), "--bundle", str(forged)])
    assert r"a\x1b[2J.png: " in result.output
    assert r"b\x1b[2J.png: " in result.output
    assert "\x1b" not in result.output


def test_no_command_prints_text_that_is_not_escaped():
    commands = sorted((Path(__file__).parents[2] / "abnn_serve" / "cli").glob("*.py"))
    raw = re.compile(r"typer\.echo\(f|(?<![.\w])print\(")
    assert [file.name for file in commands if file.name != "terminal.py" and raw.search(file.read_text())] == []
