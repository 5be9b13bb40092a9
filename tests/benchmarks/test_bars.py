"""Bars: their verdicts, their exit code, and the same values from committed results."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from abnn_serve.errors import ConfigError
from benchmarks.agreement import bars_of as agreement_bars
from benchmarks.common.command import run
from benchmarks.common.ratios import Ratio
from benchmarks.common.report import Bar, print_bars, write_record
from benchmarks.common.timing import medians
from benchmarks.latency import RATIOS
from benchmarks.serve import bars_of as serve_bars
from benchmarks.video import bars_of as video_bars

RESULTS = Path(__file__).parents[2] / "benchmarks" / "results"


def _bar(value, limit=1.0, better="smaller"):
    return Bar(name="time", value=value, limit=limit, better=better)


def _results(name):
    return json.loads((RESULTS / f"{name}.json").read_text())


def _by_name(records):
    """Limits and values, by what is measured of which input."""
    return {
        (record["what"], record.get("input", ""), field): record[field]
        for record in records
        for field in ("limit", "measured")
    }


def test_the_limit_itself_passes_on_either_side():
    assert _bar(1.0).passed
    assert not _bar(1.01).passed
    assert _bar(1.0, better="larger").passed
    assert not _bar(0.99, better="larger").passed


def test_a_bar_that_was_not_measured_passes_and_says_so():
    assert _bar(None).passed
    assert "not measured" in str(_bar(None))


def test_the_printed_table_marks_what_was_missed(capsys):
    print_bars([_bar(0.5), _bar(1.5), _bar(1.5, better="larger")])
    head, *lines = capsys.readouterr().out.strip().splitlines()
    assert head.split() == ["bar", "setting", "measured", "limit"]
    assert [line.split()[-1] for line in lines] == ["passed", "MISSED", "passed"]


@pytest.mark.parametrize(("bars", "code"), [([], 0), ([_bar(0.5)], 0), ([_bar(0.5), _bar(1.5)], 1)])
def test_the_exit_code_is_1_if_a_bar_was_missed(bars, code):
    with pytest.raises(SystemExit) as exited:
        run("latency", lambda: bars)
    assert exited.value.code == code


def test_an_error_is_one_line_that_names_the_benchmark():
    def main():
        raise ConfigError("no such bundle")

    with pytest.raises(SystemExit) as exited:
        run("latency", main)
    assert exited.value.code == "latency: no such bundle"  # Python prints it and exits with 1


def test_a_ratio_takes_the_fastest_alternative_that_was_measured():
    ratio = Ratio(
        name="fused / apart", setting="1x32x32", numerators=(("a",), ("b",)), denominators=(("c", "d"),), limit=1.0
    )
    assert ratio.bar({"1x32x32": {"a": 3.0, "b": 2.0, "c": 1.0, "d": 3.0}}).value == 0.5
    assert ratio.bar({"1x32x32": {"a": 3.0, "c": 1.0}}).value is None
    assert ratio.bar({}).value is None


@pytest.mark.parametrize("name", ["latency-epyc", "latency-quick-epyc"])
def test_latency_finds_the_committed_bars_in_the_committed_times(name):
    record = _results(name)
    times = {shape: medians(cases) for shape, cases in record["seconds"].items()}
    bars = [ratio.bar(times).record() for ratio in RATIOS]
    assert _by_name(bars) == pytest.approx(_by_name(record["bars"]), rel=1e-4)


@pytest.mark.parametrize("name", ["serve-224-cpu", "serve-224-int8-cpu", "serve-small-cpu"])
def test_serve_finds_the_committed_bars_in_the_committed_figures(name):
    record = _results(name)
    bars = _by_name(bar.record() for bar in serve_bars(record["figures"], record["settings"]["size"]))
    committed = _by_name(record["bars"])
    assert len(bars) == 4
    assert bars == pytest.approx({key: committed[key] for key in bars}, rel=1e-4)


def test_video_and_agreement_have_bars_for_their_committed_figures():
    video = video_bars(_results("video-cpu"), "r3d_18")
    assert [bar.passed for bar in video] == [True, True, True]
    rows = _results("agreement")["rows"]
    agreement = agreement_bars(rows)
    assert len(agreement) == len(rows)
    assert all(bar.passed for bar in agreement)


def test_a_record_has_the_bars_and_no_path_of_this_machine(tmp_path):
    write_record(tmp_path / "new" / "latency", {"out": tmp_path / "latency"}, [_bar(1.23456789)], seconds=[1.0, 2.0])
    text = (tmp_path / "new" / "latency.json").read_text()
    record = json.loads(text)
    assert record["bars"] == [{"what": "time", "input": "", "limit": 1.0, "better": "smaller", "measured": 1.23457}]
    assert record["settings"] == {"out": "latency"}
    assert '"seconds": [1.0, 2.0]' in text
    assert str(tmp_path) not in text
