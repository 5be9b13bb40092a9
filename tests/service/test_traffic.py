"""What the counts of a shadow and a canary say, and `abnn compare-traffic`."""

from __future__ import annotations

import numpy as np
import pytest
from typer.testing import CliRunner

from abnn_serve.cli.main import app
from abnn_serve.errors import ConfigError
from abnn_serve.service.metrics import Metrics
from abnn_serve.service.traffic import compare_canaries, compare_shadows, read_samples


def _shadow(both: int, gained: int, lost: int) -> Metrics:
    metrics = Metrics(workers=1)
    metrics.shadow_answers.labels("m", "cat", "both").inc(both)
    metrics.shadow_answers.labels("m", "cat", "served").inc(lost)
    metrics.shadow_answers.labels("m", "dog", "candidate").inc(lost)
    metrics.shadow_answers.labels("m", "dog", "served").inc(gained)
    metrics.shadow_answers.labels("m", "cat", "candidate").inc(gained)
    for value in (0.1, 0.3):
        metrics.shadow_difference.labels("m", "cat").observe(value)
        metrics.shadow_seconds.labels("m", "cat", "served").observe(value / 100)
    return metrics


def _samples(metrics: Metrics):
    return read_samples(metrics.exposition()[0].decode(), "metrics")


def test_a_shadow_that_predicts_a_class_more_often_differs_significantly():
    (comparison,) = compare_shadows(_samples(_shadow(both=900, gained=70, lost=30)))
    assert (comparison.agreement.correct, comparison.agreement.n) == (900, 1000)
    cat = next(row for row in comparison.classes if row.label == "cat")
    assert cat.p_value < 0.001
    assert (cat.difference, cat.seconds[0]) == pytest.approx((0.2, 0.002))
    (comparison,) = compare_shadows(_samples(_shadow(both=900, gained=52, lost=48)))
    assert {row.p_value for row in comparison.classes} == {1.0}


def _canary(rng: np.random.Generator, slowdown: float, failures: int) -> Metrics:
    metrics = Metrics(workers=1)
    for arm, count, factor, failed in (("stable", 3000, 1.0, 3), ("canary", 300, slowdown, failures)):
        for seconds in rng.gamma(3, 0.01 * factor, count):
            metrics.canary_seconds.labels("m", arm).observe(seconds)
            metrics.canary_probability.labels("m", arm).observe(rng.uniform())
            metrics.canary_answers.labels("m", arm, rng.choice(["cat", "dog"])).inc()
        metrics.canary_requests.labels("m", arm, 200).inc(count - failed)
        metrics.canary_requests.labels("m", arm, 500).inc(failed)
    return metrics


def test_a_slow_or_failing_canary_is_seen_and_an_equal_one_is_not():
    rng = np.random.default_rng(3)
    significant = {}
    for name, arguments in {"equal": (1.0, 0), "slow": (1.5, 0), "failing": (1.0, 9)}.items():
        (comparison,) = compare_canaries(_samples(_canary(rng, *arguments)))
        assert comparison.requests == (3000, 300)
        significant[name] = [figure.name for figure in comparison.figures if figure.p_value < 0.05]
    assert significant == {"equal": [], "slow": ["session time"], "failing": ["responses of status 5xx"]}


def test_a_canary_with_one_arm_is_not_compared():
    metrics = Metrics(workers=1)
    metrics.canary_requests.labels("m", "stable", 200).inc()
    assert compare_canaries(_samples(metrics)) == []


def test_text_of_another_format_is_refused():
    with pytest.raises(ConfigError, match="not in Prometheus' text format"):
        read_samples("<html>x</html>", "page")


def test_the_command_prints_tables_and_a_verdict(tmp_path):
    file = tmp_path / "metrics"
    file.write_bytes(_shadow(both=900, gained=70, lost=30).exposition()[0])
    result = CliRunner().invoke(app, ["compare-traffic", str(file)])
    assert result.exit_code == 0
    assert "shadow of m: the same class for 90.00% of 1,000" in result.output
    assert "2 of 2 classes are predicted more or less often, and chance does not explain it" in result.output
    file.write_bytes(_canary(np.random.default_rng(3), 1.5, 0).exposition()[0])
    assert "1 of 5 figures differ" in CliRunner().invoke(app, ["compare-traffic", str(file)]).output
    file.write_text("")
    assert "set ABNN_SHADOW or ABNN_CANARY" in str(CliRunner().invoke(app, ["compare-traffic", str(file)]).exception)
