"""Prometheus metrics. Labels take few values, whatever clients send."""

from __future__ import annotations

import os
from functools import partial

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 30)
_SHARES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 1.0)
_DRIFTS = (0.5, 0.75, 1, 1.25, 1.5, 2, 2.5, 3, 4, 6, 10, 30)
_SIZES = (1, 2, 4, 8, 16, 32, 64, 128)


class Metrics:
    """The metrics of one process; several workers combine theirs through PROMETHEUS_MULTIPROC_DIR."""

    def __init__(self, *, workers: int) -> None:
        if workers == 1:
            os.environ.pop("PROMETHEUS_MULTIPROC_DIR", None)  # BentoML sets one directory for all servers of a user
        from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

        self._registry = CollectorRegistry()
        counter = partial(Counter, registry=self._registry)
        gauge = partial(Gauge, registry=self._registry)
        histogram = partial(Histogram, registry=self._registry)
        self.requests = counter("abnn_requests", "HTTP responses", ["endpoint", "status"])
        self.rejects = counter("abnn_rejects", "Rejected requests by error code", ["code"])
        self.seconds = histogram(
            "abnn_request_seconds", "Time from request head to response", ["endpoint"], buckets=_SECONDS
        )
        self.stages = histogram(
            "abnn_stage_seconds",
            "Time per stage of successful requests: upload, decode, queue, compute",
            ["model", "stage"],
            buckets=_SECONDS,
        )
        self.batch = histogram("abnn_batch_size", "Samples per session run", ["model"], buckets=_SIZES)
        self.runs = histogram("abnn_run_seconds", "Session run time", ["model"], buckets=_SECONDS)
        self.in_flight = gauge("abnn_requests_inside", "Requests in flight", multiprocess_mode="livesum")
        self.queued = gauge("abnn_samples_waiting", "Samples queued", multiprocess_mode="livesum")
        self.decoder_deaths = counter(
            "abnn_decoder_deaths",
            "Decoding processes that ended, by cause: time, memory, crash, system_call, killed, protocol, start",
            ["cause"],
        )
        self.model = gauge(
            "abnn_model_info",
            "1 for the version in service, 0 for replaced versions",
            ["name", "version", "digest", "provider", "precision"],
            multiprocess_mode="livemax",
        )
        self.reloads = counter("abnn_reloads", "New bundle versions on disk, by outcome", ["model", "outcome"])
        self.top_probability = histogram(
            "abnn_top_probability", "Probability of the predicted class", ["model"], buckets=_SHARES
        )
        self.margin = histogram(
            "abnn_margin", "Difference of the two largest probabilities", ["model"], buckets=_SHARES
        )
        self.entropy = histogram(
            "abnn_entropy", "Entropy of the probabilities as a share of its maximum", ["model"], buckets=_SHARES
        )
        self.predictions = counter("abnn_predictions", "Answers by predicted class", ["model", "label"])
        self.abstentions = counter("abnn_abstentions", "Answers below abstain_below", ["model"])
        self.drift = histogram("abnn_drift", "Mean drift of sampled inputs", ["model"], buckets=_DRIFTS)

        self.near_duplicates = counter(
            "abnn_near_duplicates", "Samples that resemble earlier ones of the same key", ["key"]
        )
        self.dropped_traces = counter(
            "abnn_dropped_traces", "Requests whose spans were dropped because the collector was too slow"
        )
        self.suspicious = counter("abnn_suspicious_samples", "Samples that resemble many earlier ones", ["key"])
        self._add_candidates()

    def _add_candidates(self) -> None:
        from prometheus_client import Counter, Gauge, Histogram, Summary

        counter = partial(Counter, registry=self._registry)
        summary = partial(Summary, registry=self._registry)
        histogram = partial(Histogram, registry=self._registry)
        by_class = ["model", "label"]
        self.candidate = Gauge(
            "abnn_candidate_info",
            "1 for the candidate in service, 0 for replaced versions",
            ["model", "role", "name", "version", "digest", "provider", "precision"],
            multiprocess_mode="livemax",
            registry=self._registry,
        )
        self.shadow_answers = counter(
            "abnn_shadow_answers",
            "Classes of compared samples, by who predicted them: both, served, candidate",
            [*by_class, "by"],
        )
        self.shadow_difference = summary(
            "abnn_shadow_difference", "Absolute difference of the probability of the served class", by_class
        )
        self.shadow_seconds = summary("abnn_shadow_seconds", "Session time per sample", [*by_class, "which"])
        self.canary_requests = counter(
            "abnn_canary_requests", "Responses of a model with a canary", ["model", "arm", "status"]
        )
        self.canary_answers = counter("abnn_canary_answers", "Answers by predicted class", ["model", "arm", "label"])
        self.canary_seconds = histogram(
            "abnn_canary_seconds", "Session time of a request", ["model", "arm"], buckets=_SECONDS
        )
        self.canary_probability = histogram(
            "abnn_canary_top_probability", "Probability of the predicted class", ["model", "arm"], buckets=_SHARES
        )

    def exposition(self) -> tuple[bytes, str]:
        """All metrics in Prometheus' text format, and its media type."""
        from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest, multiprocess

        if "PROMETHEUS_MULTIPROC_DIR" not in os.environ:
            return generate_latest(self._registry), CONTENT_TYPE_LATEST
        all_workers = CollectorRegistry()
        multiprocess.MultiProcessCollector(all_workers)  # type: ignore[no-untyped-call]
        return generate_latest(all_workers), CONTENT_TYPE_LATEST
