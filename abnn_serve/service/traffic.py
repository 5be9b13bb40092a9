"""What the counts of a shadow or a canary say: how the candidate differs, and whether chance explains it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

from abnn_serve.card import Accuracy
from abnn_serve.errors import ConfigError
from abnn_serve.significance import holm, mcnemar, rank_sum, two_shares

LEVEL = 0.05
_SERVER_ERROR = 500

Samples = dict[str, list[tuple[dict[str, str], float]]]  # by name: labels and value


@dataclass(frozen=True, slots=True, kw_only=True)
class ShadowClass:
    """Comparison of the samples of one class.

    Attributes:
        both, served, candidate: samples for which both models predicted it, or only one did.
        difference: mean absolute difference of its probability, of samples for which the served model predicted it.
        seconds: session time of these samples, of the served model and of the candidate.
        p_value: McNemar's test that both predict it equally often, adjusted for the number of classes.
    """

    label: str
    both: int
    served: int
    candidate: int
    difference: float
    seconds: tuple[float, float]
    p_value: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ShadowComparison:
    """A shadow of the model `name`; `agreement` is the share of samples with the same class."""

    name: str
    agreement: Accuracy
    classes: tuple[ShadowClass, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """A figure of the stable model and of the canary, and the adjusted p-value that they do not differ.

    Attributes:
        unit: `share` or `seconds`.
    """

    name: str
    unit: str
    stable: float
    canary: float
    p_value: float


@dataclass(frozen=True, slots=True, kw_only=True)
class CanaryComparison:
    """A canary of the model `name`, and the responses of each arm."""

    name: str
    requests: tuple[int, int]
    figures: tuple[Figure, ...]


def read_samples(text: str, where: str) -> Samples:
    """Parse metrics in Prometheus' text format.

    Raises:
        ConfigError: another format.
    """
    from prometheus_client.parser import text_string_to_metric_families

    samples: Samples = defaultdict(list)
    try:
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                samples[sample.name].append((sample.labels, sample.value))
    except (ValueError, IndexError, KeyError) as error:
        raise ConfigError(
            f"{where} is not in Prometheus' text format ({error}); give the output of /metrics"
        ) from error
    return samples


def compare_shadows(samples: Samples) -> list[ShadowComparison]:
    """The shadows in these metrics, those without a compared sample left out."""
    comparisons = []
    for name in _values(samples["abnn_shadow_answers_total"], "model"):
        counts: dict[str, dict[str, int]] = defaultdict(lambda: {"both": 0, "served": 0, "candidate": 0})
        for labels, value in samples["abnn_shadow_answers_total"]:
            if labels["model"] == name:
                counts[labels["label"]][labels["by"]] += int(value)
        p_values = holm([mcnemar(row["candidate"], row["served"]) for row in counts.values()])
        classes = tuple(
            ShadowClass(
                label=label,
                **row,
                difference=_mean(samples, "abnn_shadow_difference", model=name, label=label),
                seconds=(
                    _mean(samples, "abnn_shadow_seconds", model=name, label=label, which="served"),
                    _mean(samples, "abnn_shadow_seconds", model=name, label=label, which="candidate"),
                ),
                p_value=p_value,
            )
            for (label, row), p_value in zip(counts.items(), p_values, strict=True)
        )
        same = sum(row.both for row in classes)
        total = same + sum(row.served for row in classes)
        comparisons.append(
            ShadowComparison(name=name, agreement=Accuracy(correct=same, n=total), classes=tuple(classes))
        )
    return comparisons


def compare_canaries(samples: Samples) -> list[CanaryComparison]:
    """The canaries in these metrics whose arms have both answered."""
    comparisons = []
    for name in _values(samples["abnn_canary_requests_total"], "model"):
        stable, canary = ({"model": name, "arm": arm} for arm in ("stable", "canary"))
        totals = tuple(int(_sum(samples, "abnn_canary_requests_total", **arm)) for arm in (stable, canary))
        if not all(totals):
            continue
        figures = [_failures(samples, stable, canary, totals)]
        for figure, unit, metric in (
            ("session time", "seconds", "abnn_canary_seconds"),
            ("top probability", "share", "abnn_canary_top_probability"),
        ):
            before, after = (_bins(samples, metric, **arm) for arm in (stable, canary))
            mean, other = (_mean(samples, metric, **arm) for arm in (stable, canary))
            figures.append(_figure(figure, unit, mean, other, rank_sum(before, after)))
        answers = tuple(int(_sum(samples, "abnn_canary_answers_total", **arm)) for arm in (stable, canary))
        for label in _values(samples["abnn_canary_answers_total"], "label", model=name):
            a, b = (int(_sum(samples, "abnn_canary_answers_total", label=label, **arm)) for arm in (stable, canary))
            p_value = two_shares(a, answers[0], b, answers[1])
            figures.append(
                _figure(f"answers: {label}", "share", a / max(1, answers[0]), b / max(1, answers[1]), p_value)
            )
        adjusted = holm([figure.p_value for figure in figures])
        figures = [
            _figure(figure.name, figure.unit, figure.stable, figure.canary, p_value)
            for figure, p_value in zip(figures, adjusted, strict=True)
        ]
        comparisons.append(CanaryComparison(name=name, requests=(totals[0], totals[1]), figures=tuple(figures)))
    return comparisons


def _failures(samples: Samples, stable: dict[str, str], canary: dict[str, str], totals: tuple[int, ...]) -> Figure:
    failed = [
        sum(
            int(value)
            for labels, value in samples["abnn_canary_requests_total"]
            if arm.items() <= labels.items() and int(labels["status"]) >= _SERVER_ERROR
        )
        for arm in (stable, canary)
    ]
    p_value = two_shares(failed[0], totals[0], failed[1], totals[1])
    return _figure("responses of status 5xx", "share", failed[0] / totals[0], failed[1] / totals[1], p_value)


def _figure(name: str, unit: str, stable: float, canary: float, p_value: float) -> Figure:
    return Figure(name=name, unit=unit, stable=stable, canary=canary, p_value=p_value)


def _values(rows: Iterable[tuple[dict[str, str], float]], key: str, **labels: str) -> list[str]:
    """Values of a label, in the order of the metrics, where some sample counts."""
    return list(dict.fromkeys(row[key] for row, value in rows if value and labels.items() <= row.items()))


def _sum(samples: Samples, name: str, **labels: str) -> float:
    return sum(value for row, value in samples[name] if labels.items() <= row.items())


def _mean(samples: Samples, name: str, **labels: str) -> float:
    return _sum(samples, f"{name}_sum", **labels) / (_sum(samples, f"{name}_count", **labels) or 1.0)


def _bins(samples: Samples, name: str, **labels: str) -> list[float]:
    """Counts in each bin of a histogram, in order of its bounds."""
    rows = [(float(row["le"]), value) for row, value in samples[f"{name}_bucket"] if labels.items() <= row.items()]
    cumulative = [value for _, value in sorted(rows)]
    return [after - before for before, after in zip([0.0, *cumulative], cumulative, strict=False)]
