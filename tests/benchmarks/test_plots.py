"""Every figure can be drawn from the committed results."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from benchmarks.common.fits import Line, fit_line
from benchmarks.common.plots import draw_accuracy, draw_kernels, draw_latency, draw_scaling, draw_tradeoff
from benchmarks.common.timing import medians
from benchmarks.latency import over_apart
from benchmarks.papers.report import accuracies, read_results, write_results
from benchmarks.reproduce import TABLES
from benchmarks.scaling import AXIS_LABELS
from benchmarks.tradeoff import OURS, PUBLISHED, read_points

RESULTS = Path(__file__).parents[2] / "benchmarks" / "results"


def _results(name):
    return json.loads((RESULTS / f"{name}.json").read_text())


def _size(path):
    with Image.open(path) as image:
        return image.size


@pytest.mark.parametrize("name", ["latency-epyc", "latency-quick-epyc"])
def test_latency(name, tmp_path):
    ratios = over_apart({shape: medians(cases) for shape, cases in _results(name)["seconds"].items()})
    assert "default" not in ratios
    draw_latency(ratios, tmp_path / "latency.png")
    assert _size(tmp_path / "latency.png") == (1100, 550)


def test_roofline(tmp_path):
    draw_kernels(_results("roofline-epyc")["kernel_seconds"], tmp_path / "roofline.png")
    assert _size(tmp_path / "roofline.png") == (990, 495)


def test_scaling(tmp_path):
    lines = {name: Line(**line) for name, line in _results("scaling-cpu")["series"].items()}
    for line in lines.values():
        assert fit_line(line.at, line.milliseconds).slope == pytest.approx(line.slope, rel=1e-4)
    draw_scaling(lines, AXIS_LABELS, tmp_path / "scaling.png")
    assert _size(tmp_path / "scaling.png") == (1320, 396)


@pytest.mark.parametrize("name", ["image", "recipes"])
def test_the_committed_table_is_written_again_as_it_is(name, tmp_path):
    table, folder = TABLES[name], RESULTS / f"{name}-cpu"
    results = read_results(folder / "table.json", "cpu", table.presets["cpu"].eps)
    write_results(tmp_path, results, table, "cpu")
    assert (tmp_path / "table.md").read_text() == (folder / "table.md").read_text()
    assert json.loads((tmp_path / "table.json").read_text())["rows"]
    draw_accuracy(accuracies(results), tmp_path / "accuracy.png")
    assert _size(tmp_path / "accuracy.png")[0] == 880


def test_the_trade_off_has_published_networks_and_those_of_ours_that_autoattack_was_run_on(tmp_path):
    points = read_points(RESULTS.parents[1] / "models", RESULTS / "image-cpu" / "table.json")
    assert {point.source for point in points} == {OURS, PUBLISHED}
    assert all(0 <= point.autoattack <= point.clean <= 100 for point in points)
    draw_tradeoff(points, tmp_path / "tradeoff.png")
    assert _size(tmp_path / "tradeoff.png") == (1320, 715)
