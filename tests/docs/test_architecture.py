"""ARCHITECTURE.md against the tree: every module has its place, and every file it names exists."""

from __future__ import annotations

import re

from tests.docs.pages import ROOT, read_page
from tests.test_package import LAB_LAYERS, LAYERS

PAGE = read_page("ARCHITECTURE.md")
PACKAGE = ROOT / "abnn_serve"


def _modules_by_folder() -> dict[str, set[str]]:
    """The table of folders: folder below the package, '' for the top, to the file names of its rows."""
    table = PAGE.partition("| folder | module |")[2].partition("\n\n")[0]
    modules: dict[str, set[str]] = {}
    folder = ""
    for line in table.splitlines()[2:]:
        first, names = (cell.strip() for cell in line.strip("|").split("|")[:2])
        if first:
            folder = "" if first == "top" else first.strip("`/")
        modules.setdefault(folder, set()).update(re.findall(r"`([^`]+)`", names))
    return modules


def test_every_module_stands_in_the_row_of_its_folder_and_nothing_else_does():
    tree: dict[str, set[str]] = {}
    for path in PACKAGE.rglob("*.py"):
        if path.name != "__init__.py":
            tree.setdefault(str(path.parent.relative_to(PACKAGE)).replace(".", "", 1), set()).add(path.name)
    page = _modules_by_folder().pop("service/page")
    assert all((PACKAGE / "service" / "page" / name).is_file() for name in page)
    assert {folder: names for folder, names in _modules_by_folder().items() if folder != "service/page"} == tree


def test_every_path_named_exists():
    named = set(re.findall(r"`((?:[a-z_0-9]+/)+[a-z_0-9.]*)`", PAGE))
    assert len(named) > 30
    missing = [
        path
        for path in sorted(named)
        if not any((base / path).exists() for base in (ROOT, PACKAGE, PACKAGE / "service"))
    ]
    assert missing == []


def test_the_layers_are_those_that_are_enforced():
    (block,) = re.findall(r"```\n(cli\n.*?)```", PAGE, re.DOTALL)
    assert [set(line.split()) for line in reversed(block.splitlines())] == [set(line.split()) for line in LAYERS]
    assert f"(`{LAB_LAYERS[0]}`)" in PAGE
