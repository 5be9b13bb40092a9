"""benchmarks/results/cuda.md names tests that exist, and the figures that they allow."""

from __future__ import annotations

import re

import pytest

from tests.docs.pages import ROOT, read_page
from tests.runtime.test_cuda_without_a_gpu import LAUNCHES
from tests.runtime.test_resnet_pairs_on_cuda import PAIRS

PAGE = read_page("benchmarks/results/cuda.md")


@pytest.mark.parametrize("test", sorted(set(re.findall(r"`(tests/[\w/]+\.py::\w+)`", PAGE))))
def test_every_test_named_exists(test):
    file, _, name = test.partition("::")
    assert f"def {name}(" in (ROOT / file).read_text()


def test_each_of_the_fourteen_bugs_has_a_row():
    assert [int(number) for number in re.findall(r"^\| (\d+)\. ", PAGE, re.MULTILINE)] == list(range(1, 15))


def test_kernels_are_those_that_the_tests_allow():
    table = PAGE.partition("| graph | fp32 before |")[2].partition("\n\n")[0]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()[2:]]
    figures = {row[0]: (int(row[3]), int(row[5] or 0)) for row in rows}
    shipped = {name.split()[0] for name in LAUNCHES}
    expected = {name: (LAUNCHES[f"{name} fp32"], LAUNCHES[f"{name} fp16"]) for name in shipped}
    expected |= {f"{name} with drift": (LAUNCHES[f"{name} drift"], 0) for name in shipped}
    expected |= {name.replace("resnet", "ResNet-").replace(" ", " pair, "): counts for name, counts in PAIRS.items()}
    assert figures == expected
