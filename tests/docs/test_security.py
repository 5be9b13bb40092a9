"""The tables of findings in docs/security.md."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "security.md").read_text()


def _rows() -> list[list[str]]:
    """The cells of each row of a finding, under its table's header."""
    rows, header = [], []
    for line in PAGE.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")] if line.startswith("|") else []
        header = cells if cells and cells[0] == "finding" else header if cells else []
        if cells and re.match(r"S\d+ ", cells[0]):
            assert len(cells) == len(header), line
            assert header[-2:] == ["now", "test"]
            rows.append(cells)
    return rows


def test_every_finding_has_a_row_of_its_tables_shape():
    numbers = {int(re.match(r"S(\d+) ", row[0])[1]) for row in _rows()}
    assert numbers == set(range(1, 26))


def test_a_row_that_says_what_holds_now_names_a_test_that_exists():
    for row in _rows():
        *_, now, test = row
        assert bool(now) == bool(test), row
        assert not test or any((ROOT / path).is_file() for path in re.findall(r"`(tests/[\w/.]+)`", test)), row
