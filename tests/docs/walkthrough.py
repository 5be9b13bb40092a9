"""Runs the shell commands of a page on a small folder of real images."""

from __future__ import annotations

import io
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pyarrow.parquet as pq
import torch
from PIL import Image

from abnn_serve.cli.main import app
from abnn_serve.lab.networks.zoo import build_network
from tests.docs.pages import ROOT, code_blocks, read_page

CLASSES = {3: "cat", 5: "dog"}  # of CIFAR-10


def lay_out(folder: Path, data: Path, network: str, *, train: int, test: int) -> None:
    """Write what the pages start from: photos/train, photos/test, and a state dict in the place of a download."""
    table = pq.read_table(data / "cifar10-test.parquet")
    images, labels = table["image"].to_pylist(), table["label"].to_pylist()
    for label, name in CLASSES.items():
        chosen = [image for image, other in zip(images, labels, strict=True) if other == label][: train + test]
        for index, image in enumerate(chosen):
            split, number = ("train", index + 1) if index < train else ("test", index - train + 101)
            place = folder / "photos" / split / name
            place.mkdir(parents=True, exist_ok=True)
            Image.open(io.BytesIO(image)).save(place / f"{number:03}.png")
    (folder / "weights").mkdir()
    torch.save(build_network(network, 1000).state_dict(), folder / "weights" / f"{network}.pth")


def commands_of(page: str, changes: Mapping[str, str]) -> list[list[str]]:
    """The commands of a page's sh blocks, in order, with the patterns of `changes` replaced; comments are left out."""
    text = "\n".join(code_blocks(read_page(page), "sh")).replace("\\\n", " ")
    for pattern, value in changes.items():
        text = re.sub(pattern, value, text)
    return [words for line in text.splitlines() if (words := shlex.split(line, comments=True))]


def run_here(words: list[str]) -> None:
    """Run an `abnn` command in this process, which imports torch once."""
    assert words[0] == "abnn"
    app(words[1:], standalone_mode=False)


def run_apart(words: list[str], folder: Path) -> None:
    """Run an `abnn` command in `folder` in a process of its own, as a user does."""
    assert words[0] == "abnn"
    command = [sys.executable, "-c", "from abnn_serve.cli.main import main; main()", *words[1:]]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    result = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, (words, result.stderr)
