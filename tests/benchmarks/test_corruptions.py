from __future__ import annotations

import json
import sys

import numpy as np
import pytest
import torch
from torch import nn

from abnn_serve.errors import ConfigError
from abnn_serve.evaluation.corruptions.constants import CORRUPTIONS
from benchmarks import corruptions
from benchmarks.baselines.instance_norm import from_twin


def _row(name, counts, clean=0.9):
    accuracy = {each: [float(np.mean(counts)) / 75] * 5 for each in CORRUPTIONS}
    return {"name": name, "clean": clean, "accuracy": accuracy, "correct_of_75": counts}


def test_seeds_are_one_row_and_differences_are_paired_by_image():
    rows = [_row("twin 1", [75, 0, 30, 45]), _row("twin 2", [75, 0, 30, 45]), _row("linear 1", [60, 15, 45, 60])]
    lines = corruptions.table(rows, "twin").splitlines()
    assert lines[2].startswith("| twin | 2 | 90.0 | 50.0 | ")
    assert lines[2].endswith(" |  |  | 50.0, 50.0 |")
    assert " | +10.0 | " in lines[3]  # 15 of 75 more for three images, 15 fewer for one
    difference = np.array([-0.2, 0.2, 0.2, 0.2])
    half = 1.959964 * difference.std(ddof=1) / 2
    assert f"| {100 * (0.1 - half):+.1f} to {100 * (0.1 + half):+.1f} |" in lines[3]


def test_subjects_are_measured_as_evaluate_measures_them_and_kept(standard_run, shapes, tmp_path, monkeypatch, capsys):
    arguments = ["--data", shapes["val"], "--baseline", "plain", "-n", "6", "--out", str(tmp_path / "out")]
    run = [f"plain 1={standard_run.path}"]
    for _ in range(2):
        monkeypatch.setattr(sys, "argv", ["corruptions", *arguments, "--subjects", *run])
        assert corruptions.main() == []
    assert capsys.readouterr().err.count("15/15") == 1
    ((row,),) = [json.loads((tmp_path / "out.json").read_text())["rows"]]
    assert np.mean(row["correct_of_75"]) / 75 == pytest.approx(np.mean(list(row["accuracy"].values())), abs=1e-4)
    monkeypatch.setattr(sys, "argv", ["corruptions", *arguments, "--subjects", *run, "-n", "7"])
    with pytest.raises(ConfigError, match="is of 6 images, and -n is 7; choose another --out"):
        corruptions.main()


def test_the_control_starts_from_the_weights_of_its_twin(standard_run, monkeypatch):
    monkeypatch.setenv("TWIN", str(standard_run.path))
    control, twin = from_twin(3), standard_run.network().body
    norms = [module for module in control.modules() if isinstance(module, nn.InstanceNorm2d)]
    replaced = [module for module in twin.modules() if isinstance(module, nn.BatchNorm2d)]
    assert len(norms) == len(replaced) > 0
    assert all(torch.equal(norm.weight, old.weight) for norm, old in zip(norms, replaced, strict=True))
    assert not any(isinstance(module, nn.BatchNorm2d) for module in control.modules())
