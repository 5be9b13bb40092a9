"""What an answer of a bundle costs, beside its robustness."""

from __future__ import annotations

import json
import sys

import pytest

from benchmarks import bundles


def test_every_precision_and_engine_of_a_bundle_has_a_row_with_its_cards_figures(bundle, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(sys, "argv", ["bundles", str(bundle.path), "--seconds", "0.1", "--out", str(tmp_path / "rows")])
    assert bundles.main() == []
    rows = json.loads((tmp_path / "rows.json").read_text())["rows"]
    precisions = {row["engine"].split()[0] for row in rows}
    assert precisions == set(bundle.manifest.precisions)
    assert {row["clean"] for row in rows} == {pytest.approx(100 * bundle.card.clean.value) if bundle.card else None}
    assert all(0 < row["milliseconds"] < 1000 for row in rows)
    assert len(capsys.readouterr().out.splitlines()) == len(rows)
