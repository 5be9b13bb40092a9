"""docs/bundle-format.md against the code: every field is documented, and the reader on the page reads."""

from __future__ import annotations

import dataclasses
import shutil
import subprocess
import sys

import pytest

from abnn_serve import card
from abnn_serve.bundle import manifest
from abnn_serve.spec import InputSpec, Labels, Sampling
from tests.docs.pages import ROOT, code_blocks, read_page

PAGE = read_page("docs/bundle-format.md")
DOCUMENTED = [
    manifest.Manifest,
    manifest.Pair,
    manifest.Parity,
    manifest.FileEntry,
    InputSpec,
    Sampling,
    Labels,
    *(kind for kind in vars(card).values() if dataclasses.is_dataclass(kind)),
]


@pytest.mark.parametrize("kind", DOCUMENTED, ids=lambda kind: kind.__name__)
def test_every_field_on_disk_is_documented(kind):
    missing = [field.name for field in dataclasses.fields(kind) if f"`{field.name}`" not in PAGE]
    assert missing == []


def test_every_required_file_and_the_newest_version_are_documented():
    for name in (manifest.MANIFEST, *manifest.REQUIRED):
        assert f"`{name}`" in PAGE
    assert f"| {manifest.FORMAT_VERSION} | 0.1 |" in PAGE
    assert f"| {manifest.FORMAT_VERSION + 1} |" not in PAGE
    assert manifest._NAME.pattern in PAGE


def _read_with_the_page(folder):
    (code,) = code_blocks(PAGE, "python")
    return subprocess.run(
        [sys.executable, "-c", code], cwd=folder, env={"PYTHONPATH": ""}, capture_output=True, text=True, check=False
    )


def test_the_reader_on_the_page_reads_the_default_bundle_without_abnn_serve(tmp_path):
    (tmp_path / "models").symlink_to(ROOT / "models")
    result = _read_with_the_page(tmp_path)
    assert result.returncode == 0, result.stderr
    labels = (ROOT / "models/cifar10-abnn-robust/labels.json").read_text()
    assert f'"{result.stdout.strip()}"' in labels


@pytest.mark.parametrize("name", ["bundle.json", "card.json", "golden.npz", "labels.json"])
def test_the_reader_on_the_page_refuses_a_flipped_bit(tmp_path, name):
    copy = tmp_path / "models" / "cifar10-abnn-robust"
    shutil.copytree(ROOT / "models/cifar10-abnn-robust", copy)
    data = bytearray((copy / name).read_bytes())
    data[len(data) // 2] ^= 1
    (copy / name).write_bytes(data)
    assert _read_with_the_page(tmp_path).returncode != 0


def test_the_reader_on_the_page_has_about_twenty_lines():
    (code,) = code_blocks(PAGE, "python")
    body = code.split("def read_bundle")[1].split("\n\n\n")[0]
    assert len(body.splitlines()) <= 24
