"""The tables of recipes: what is trained, on which data, and what their figures are."""

from __future__ import annotations

import json
import sys

import pytest

from benchmarks import reproduce
from benchmarks.papers.recipes import RECIPES
from benchmarks.papers.report import read_results


def test_recipes_are_compared_on_held_out_training_images_and_never_on_test_images():
    sources = RECIPES.sources("data")
    assert sources["train"] == "data/cifar10-train-*.parquet[:20480]"
    assert sources["test"] == "data/cifar10-train-*.parquet[48000:]"
    assert not any("test" in source for source in sources.values())


def test_a_row_with_its_own_network_is_trained_and_its_worst_attack_is_a_column(shapes, tmp_path, monkeypatch):
    data = ["--train", shapes["train"], "--test", shapes["val"], "--big", "unused", "--big-test", "unused"]
    small = ["--rows", "n-fgsm-silu", "--scale", "0.01", "-n", "8", "--device", "cpu"]
    places = ["--runs", str(tmp_path / "runs"), "--out", str(tmp_path / "table")]
    monkeypatch.setattr(sys, "argv", ["reproduce", "recipes", *data, *small, *places])
    assert reproduce.main() == []
    trained = json.loads((tmp_path / "runs" / "recipes-cpu" / "n-fgsm-silu-0" / "run.json").read_text())
    assert trained["target"]["name"] == "resnet10-w16-silu"
    results = read_results(tmp_path / "table" / "table.json", "cpu", 8 / 255)
    heading, _, *lines = (tmp_path / "table" / "table.md").read_text().splitlines()[2:]
    at = heading.split("|").index(" worst for each image ")
    worst = [float(line.split("|")[at]) for line in lines]
    assert worst == [pytest.approx(100 * result.card.worst["whitebox"].value, abs=0.05) for result in results.values()]
