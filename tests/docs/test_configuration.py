"""docs/configuration.md against the code: names, defaults and choices of every variable."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path
from typing import get_args

import pytest

import abnn_serve
from abnn_serve.runtime.settings import DEFAULT_BUNDLE, DEFAULT_VIDEO_BUNDLE, Device, Settings
from abnn_serve.service.settings import ServiceSettings
from abnn_serve.spec import Precision
from tests.docs.pages import read_page

PAGE = read_page("docs/configuration.md")
ROWS = {
    cells[0].strip("`"): cells[1:]
    for line in PAGE.splitlines()
    if line.startswith("| `ABNN_")
    for cells in [[cell.strip() for cell in line.strip("|").split("|")]]
}
SERVICE = {f"ABNN_{field.name.upper()}": field.default for field in fields(ServiceSettings)}
DEFAULTS = Settings.from_environment({})
INFERENCE = {
    "ABNN_BUNDLE": f"models/{DEFAULT_BUNDLE}",
    "ABNN_BUNDLE_DIGEST": DEFAULTS.digest,
    "ABNN_REQUIRE_SIGNATURE": DEFAULTS.require_signature,
    "ABNN_VIDEO_BUNDLE": f"models/{DEFAULT_VIDEO_BUNDLE}",
    "ABNN_DEVICE": DEFAULTS.device,
    "ABNN_PRECISION": DEFAULTS.precision,
    "ABNN_GPU": DEFAULTS.gpu,
    "ABNN_THREADS": DEFAULTS.threads,
    "ABNN_MAX_UPLOAD_BYTES": DEFAULTS.limits.max_bytes,
    "ABNN_MAX_PIXELS": DEFAULTS.limits.max_pixels,
    "ABNN_MAX_VIDEO_BYTES": DEFAULTS.video_limits.max_bytes,
    "ABNN_MAX_VIDEO_PIXELS": DEFAULTS.video_limits.max_pixels,
    "ABNN_MAX_VIDEO_SECONDS": DEFAULTS.video_limits.max_seconds,
    "ABNN_MAX_FRAMES": DEFAULTS.video_limits.max_frames,
    "ABNN_NOISE_KEY_FILE": None,
    "ABNN_DECODE_SECONDS": DEFAULTS.video_limits.decode_seconds,
}


def test_every_variable_of_the_code_has_a_row_and_every_row_a_variable():
    text = "".join(path.read_text() for path in Path(abnn_serve.__file__).parent.rglob("*.py"))
    named = set(re.findall(r"\bABNN_[A-Z_]+[A-Z]\b", text))
    assert set(ROWS) == set(INFERENCE) | set(SERVICE)
    assert named <= set(ROWS)


def test_the_settings_read_the_variables_of_the_page():
    source = read_page("abnn_serve/runtime/settings.py")
    assert set(re.findall(r'"(ABNN_[A-Z_]+)"', source)) == set(INFERENCE)


@pytest.mark.parametrize(("name", "default"), [*INFERENCE.items(), *SERVICE.items()])
def test_defaults_are_those_of_the_code(name, default):
    shown = ROWS[name][1]
    if default in (None, ()):
        assert shown == "unset"
    elif isinstance(default, str):
        assert shown == f"`{default}`"
    else:
        assert float(shown) == default


def test_choices_are_those_of_the_code():
    for name, choices in (("ABNN_DEVICE", get_args(Device)), ("ABNN_PRECISION", get_args(Precision))):
        assert set(re.findall(r"`(\w+)`", ROWS[name][0])) == set(choices)


def test_numbers_have_a_unit():
    for name, (kind, _, unit, _) in ROWS.items():
        assert bool(unit) == (kind == "integer"), name
