"""The README: its commands run, its links resolve, its claim is the package's. tests/docs/ has the other pages."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest

import abnn_serve
from tests.drawing import draw_shape, png

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
CLAIM = (
    "Train, attack, export and serve image and video classifiers defended by ABNN, each bundle with its measured "
    "robustness."
)
PAGES = sorted(
    path.relative_to(ROOT).as_posix()
    for pattern in ("*.md", "docs/*.md", "models/*.md", "benchmarks/**/*.md")
    for path in ROOT.glob(pattern)
)


def test_the_first_screen_has_both_commands():
    first = "\n".join(README.splitlines()[:40])
    assert "make serve" in first
    assert "make test" in first


def test_it_is_short_enough_to_be_read():
    assert len(README.split()) <= 850


def test_the_package_claims_the_same_everywhere():
    from abnn_serve.cli.main import app

    assert README.splitlines()[2] == CLAIM
    assert tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["description"] == CLAIM
    assert (abnn_serve.__doc__ or "").splitlines()[0] == CLAIM
    assert CLAIM.rstrip(".") in str(app.info.help)


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

    known = {command.callback.__name__.replace("_", "-") for command in app.registered_commands}
    rows = re.findall(r"^\| (`abnn [^|]*)\|", README, re.MULTILINE)
    assert {name for row in rows for name in re.findall(r"`abnn ([\w-]+)`", row)} == known


def test_the_extras_named_are_those_of_the_package():
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert set(re.findall(r"pip install '\.\[(\w+)\]'", README)) <= extras.keys()


def test_the_figures_are_those_of_the_default_bundle_s_card():
    from abnn_serve.bundle.store import load_bundle

    card = load_bundle(ROOT / "models/cifar10-abnn-robust").card
    rows = {(row.threat_model, row.attack): row.accuracy.value for row in card.attacks}
    (cells,) = re.findall(r"^\| \*\*default bundle\*\* \|(.*)\|$", README, re.MULTILINE)
    assert card.clean
    assert [float(cell) for cell in cells.split("|")] == [
        round(100 * value, 1)
        for value in (
            card.clean.value,
            card.worst["whitebox"].value,
            rows["whitebox", "AutoAttack"],
            rows["whitebox", "Square-1000"],
        )
    ]
    patch = next(row for row in card.attacks if row.norm == "patch")
    assert f"leaves the default bundle {patch.accuracy.value:.1%}" in README


@pytest.mark.parametrize("page", PAGES)
def test_nothing_was_left_to_fill_in(page):
    assert "@@" not in (ROOT / page).read_text()


@pytest.mark.parametrize("page", PAGES)
def test_every_link_inside_the_repository_leads_somewhere(page):
    text = (ROOT / page).read_text()
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if "://" in link:
            continue
        path, _, anchor = link.partition("#")
        target = (ROOT / page).parent / path if path else ROOT / page
        assert target.exists(), link
        if anchor:
            headings = re.findall(r"^#+ (.*)$", target.read_text(), re.MULTILINE)
            assert anchor in {_slug(heading) for heading in headings}, link


def _slug(heading: str) -> str:
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
