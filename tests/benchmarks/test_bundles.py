"""What an answer of a bundle costs, beside its robustness."""

from __future__ import annotations

import json
import sys

from abnn_serve.bundle.store import load_bundle
from abnn_serve.runtime.settings import default_bundle
from benchmarks import bundles


def test_every_precision_and_engine_of_a_bundle_has_a_row_with_its_cards_figures(monkeypatch, tmp_path, capsys):
    path = default_bundle()
    monkeypatch.setattr(sys, "argv", ["bundles", str(path), "--seconds", "0.1", "--out", str(tmp_path / "rows")])
    bars = bundles.main()
    rows = json.loads((tmp_path / "rows.json").read_text())["rows"]
    bundle = load_bundle(path)
    worst = 100 * bundle.card.worst["whitebox"].value
    assert {row["engine"].split()[0] for row in rows} == set(bundle.manifest.precisions)
    accuracies = tuple(float(f"{value:.6g}") for value in (100 * bundle.card.clean.value, worst))  # as in records
    assert [(row["clean"], row["attacked"]) for row in rows] == [accuracies] * len(rows)
    assert len(capsys.readouterr().out.splitlines()) == len(rows)
    (size,) = (bar for bar in bars if bar.name == "bundle, MB")
    assert size.value == sum(file.stat().st_size for file in path.iterdir() if file.name != "bundle.json") / 1e6
