"""docs/training.md against the code: recipes, their fields and defaults, networks, attacks, threat models, options."""

from __future__ import annotations

import re
from dataclasses import fields
from typing import get_args

import pytest

from abnn_serve.card import ThreatModel
from abnn_serve.evaluation.suites import ATTACKS
from abnn_serve.lab.abnn.adaptive_norm import Form
from abnn_serve.lab.networks.zoo import EXAMPLES
from abnn_serve.lab.training.loop import fit
from abnn_serve.lab.training.recipe import Recipe
from abnn_serve.lab.training.recipe_settings import _FIXED
from abnn_serve.lab.training.recipes import RECIPES
from tests.docs.pages import read_page

PAGE = read_page("docs/training.md")


def _rows(name: str) -> list[list[str]]:
    """Cells of the table rows whose first cell begins with `name` in code."""
    lines = [line for line in PAGE.splitlines() if line.startswith(f"| `{name}`")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
def test_every_recipe_has_a_row(recipe):
    assert len(_rows(recipe.name)) == 1


def test_a_resumed_run_is_promised_equal_weights_on_a_cpu_only():
    """CUDA adds in no fixed order. `test_train.py` kills and resumes runs on a CPU and compares their bits."""
    for text in (PAGE, fit.__doc__):
        sentences = re.split(r"[.;]\s", " ".join(text.split()))
        promises = [each for each in sentences if "same weights" in each]
        assert promises
        assert all("on a CPU" in each or "on the same CPU" in each for each in promises)


@pytest.mark.parametrize("field", [f for f in fields(Recipe) if f.name not in _FIXED], ids=lambda field: field.name)
def test_every_field_of_a_recipe_has_a_row_with_its_default(field):
    ((_, default, _),) = _rows(field.name)
    shown = {"True": "true", "None": "none"}.get(str(field.default), field.default)
    if isinstance(shown, float):
        assert float(default) == pytest.approx(shown, abs=5e-6)
    else:
        assert default == str(shown)


def test_every_threat_model_form_attack_and_network_is_named():
    for name in (*get_args(ThreatModel), *get_args(Form)):
        assert _rows(name), name
    for name in (*ATTACKS, *EXAMPLES):
        assert f"`{name}`" in PAGE, name


def test_every_option_named_is_one_of_the_command():
    from typer.main import get_command

    from abnn_serve.cli.main import app

    commands = get_command(app).commands
    known = {
        flag
        for command in commands.values()
        for option in command.params
        for flag in (*option.opts, *option.secondary_opts)
    }
    own = set(re.findall(r"--[a-z]+(?:-[a-z]+)*", PAGE.partition("## The papers' tables")[0]))
    assert own <= known | {"--nproc-per-node"}  # of torchrun
    for flag in re.findall(r"^\| `(--[a-z-]+)", PAGE, re.MULTILINE):
        takers = [name for name, command in commands.items() if any(flag in option.opts for option in command.params)]
        assert {"evaluate", "export"} & set(takers), flag
