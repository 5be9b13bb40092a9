"""The figures of a record on the card of the bundle that they were measured on."""

from __future__ import annotations

import json
import shutil

import pytest
from typer.testing import CliRunner

from abnn_serve.bundle.store import load_bundle
from abnn_serve.cli.main import app
from abnn_serve.evaluation.reports.html import to_html
from abnn_serve.evaluation.reports.markdown import to_markdown
from abnn_serve.evaluation.reports.mlbom import to_mlbom
from abnn_serve.evaluation.reports.source import read_card
from benchmarks.query_attack import write_on_card
from tests.docs.pages import ROOT

RECORD = json.loads((ROOT / "benchmarks" / "results" / "query-attack.json").read_text())


def test_a_record_goes_on_the_card_and_into_every_report(bundle, tmp_path):
    shutil.copytree(bundle.path, tmp_path / "copy")
    before = load_bundle(tmp_path / "copy")
    written = write_on_card(before.path, {**RECORD, "model_sha256": before.card.model_sha256})
    after = load_bundle(before.path)
    assert after.card.query_attacks == written
    assert after.digest != before.digest
    assert after.card.clean == before.card.clean
    source, sentence = read_card(after.path), "It slows an attacker with one key; it is not a defence."
    shown = CliRunner().invoke(app, ["show", str(after.path)]).stdout
    for report in (to_markdown(source), to_html(source), to_mlbom(source), shown):
        assert sentence in report


def test_a_record_of_another_model_is_refused(bundle, tmp_path):
    with pytest.raises(SystemExit, match=r"measured on another model\.onnx"):
        write_on_card(bundle.path, {**RECORD, "model_sha256": "0" * 64})
