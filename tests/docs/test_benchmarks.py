"""Commands of benchmarks on the pages: each has the options that it is given there."""

from __future__ import annotations

import importlib
import re
import sys

import pytest

from tests.docs.pages import ROOT, read_page

PAGES = ["README.md", "SECURITY.md", "CONTRIBUTING.md", *(f"docs/{page.name}" for page in (ROOT / "docs").glob("*.md"))]
COMMANDS = sorted({match for page in PAGES for match in re.findall(r"`abnn bench (\w+[^`]*)`", read_page(page))})
COMMANDS = [command for command in COMMANDS if command.split()[0] != "NAME"]


@pytest.mark.parametrize("command", COMMANDS)
def test_every_benchmark_named_takes_the_options_that_it_is_given(command, monkeypatch, capsys):
    name, *options = command.split()
    module = importlib.import_module(f"benchmarks.{name}")
    monkeypatch.setattr(sys, "argv", [name, *options, "--help"])
    with pytest.raises(SystemExit) as end:
        module.main()
    assert end.value.code == 0, capsys.readouterr().err


def test_a_page_that_sends_gpus_to_a_benchmark_names_one_with_a_device():
    sentences = re.split(r"[.;]\s", " ".join(read_page("docs/sizing.md").split()))
    about_gpus = [sentence for sentence in sentences if "abnn bench" in sentence and re.search(r"GPU|cuda", sentence)]
    assert about_gpus
    for sentence in about_gpus:
        assert re.search(r"`abnn bench \w+ [^`]*--device cuda", sentence), sentence
