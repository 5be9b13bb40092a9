"""docs/your-model.md and the README's six lines, run on a folder of real images.

One slow test runs the page as it stands, for one epoch; the others use a tiny network at 32 px and serve nothing.
"""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from abnn_serve.bundle.store import load_bundle
from tests.docs.walkthrough import commands_of, lay_out, run_apart, run_here
from tests.service.server import serving

EPOCHS = {r"--epochs \d+": "--epochs 1"}
TINY = {"--size 224": "--size 32", "resnet18": "resnet10-w4"}
# A test downloads nothing, and the recipes' own batches need more images.
README = {"@DEFAULT": "@weights/resnet18.pth", "--lr 0.05": "--lr 0.05 --epochs 1 --batch-size 8"}


def _ask(commands: list[list[str]], folder: Path) -> list[dict[str, Any]]:
    """The answers to the page's curl commands, from a server that runs its serve command's bundle."""
    (serve,) = [words for words in commands if words[:2] == ["abnn", "serve"]]
    answers = []
    with serving(folder / serve[serve.index("--bundle") + 1], folder / "log") as client:
        for words in (words for words in commands if words[0] == "curl"):
            path = "/" + words[-1].partition("/")[2]
            if "-F" in words:
                field, _, file = words[words.index("-F") + 1].partition("=@")
                answer = client.post(path, files={field: (folder / file).read_bytes()})
            else:
                answer = client.get(path)
            assert answer.status_code == 200, answer.text
            answers.append(answer.json())
    return answers


@pytest.mark.data
@pytest.mark.slow
def test_every_command_of_the_page_runs_at_224_px(data_folder, tmp_path):
    lay_out(tmp_path, data_folder, "resnet18", train=8, test=4)
    commands = commands_of("docs/your-model.md", EPOCHS)
    for words in commands:
        if words[0] == "abnn" and words[1] != "serve":
            run_apart(words, tmp_path)
    classified, model = _ask(commands, tmp_path)
    assert classified["label"] in ("cat", "dog")
    assert model["input"]["height"] == 224
    assert model["card"]["worst"].keys() == {"whitebox", "graybox", "transfer", "blackbox", "artifact"}


def _check_small(folder: Path, page: str, changes: dict[str, str]) -> None:
    """Run the page's `abnn` commands, but for `abnn serve`, in the working directory."""
    for words in commands_of(page, changes):
        if words[0] == "abnn" and words[1] != "serve":
            run_here(words)
    card = load_bundle(folder / "models/mine").card
    assert card.worst.keys() == {"whitebox", "graybox", "transfer", "blackbox", "artifact"}


@pytest.mark.data
def test_every_command_of_the_page_runs_on_small_images(data_folder, tmp_path, monkeypatch):
    lay_out(tmp_path, data_folder, "resnet10-w4", train=8, test=4)
    monkeypatch.chdir(tmp_path)
    _check_small(tmp_path, "docs/your-model.md", EPOCHS | TINY)


@pytest.mark.data
@pytest.mark.slow
def test_every_command_of_the_readme_runs_on_small_images(data_folder, tmp_path, monkeypatch):
    lay_out(tmp_path, data_folder, "resnet10-w4", train=8, test=4)
    monkeypatch.chdir(tmp_path)
    _check_small(tmp_path, "README.md", README | TINY)


def _options(words: list[str]) -> set[tuple[str, str]]:
    return {(flag, value) for flag, value in pairwise(words) if flag.startswith("--")}


def test_the_readme_s_six_lines_are_those_of_the_page():
    def steps(page: str, changes: dict[str, str]) -> list[list[str]]:
        wanted = ("train", "export", "evaluate", "serve")
        return [words for words in commands_of(page, changes) if words[0] == "abnn" and words[1] in wanted]

    short, long = steps("README.md", {"@DEFAULT": "@weights/resnet18.pth"}), steps("docs/your-model.md", {})
    assert [words[:3] if words[1] == "train" else words[:2] for words in short] == [
        words[:3] if words[1] == "train" else words[:2] for words in long
    ]
    for brief, full in zip(short, long, strict=True):
        assert set(brief) <= set(full)
        assert _options(brief) <= _options(full)
