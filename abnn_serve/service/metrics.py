"""Prometheus metrics: who answered, what it cost, what was refused. Labels have few values, whatever clients send."""

from __future__ import annotations

import os

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 30)
_SIZES = (1, 2, 4, 8, 16, 32, 64, 128)


class Metrics:
    """The series of one process. With several workers, values are shared through PROMETHEUS_MULTIPROC_DIR."""

    def __init__(self, *, workers: int) -> None:
        if workers == 1:
            os.environ.pop("PROMETHEUS_MULTIPROC_DIR", None)  # BentoML's directory is shared by all servers of a home
        from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

        self._registry = own = CollectorRegistry()
        self.requests = Counter("abnn_requests", "Answers", ["endpoint", "status"], registry=own)
        self.rejects = Counter("abnn_rejects", "Refused requests by cause", ["code"], registry=own)
        self.seconds = Histogram(
            "abnn_request_seconds", "From a request's head to its answer", ["endpoint"], buckets=_SECONDS, registry=own
        )
        self.stages = Histogram(
            "abnn_stage_seconds",
            "Of answered requests, by stage: upload, decode, queue, compute",
            ["model", "stage"],
            buckets=_SECONDS,
            registry=own,
        )
        self.batch = Histogram("abnn_batch_size", "Samples in a run", ["model"], buckets=_SIZES, registry=own)
        self.runs = Histogram("abnn_run_seconds", "Of the session", ["model"], buckets=_SECONDS, registry=own)
        self.inside = Gauge("abnn_requests_inside", "Being answered", multiprocess_mode="livesum", registry=own)
        self.waiting = Gauge("abnn_samples_waiting", "In line", multiprocess_mode="livesum", registry=own)
        self.model = Gauge(
            "abnn_model_info",
            "1 for what is served now, 0 for what was",
            ["name", "version", "digest", "provider", "precision"],
            multiprocess_mode="livemax",
            registry=own,
        )
        self.reloads = Counter("abnn_reloads", "New versions found on disk", ["model", "outcome"], registry=own)

    def exposition(self) -> tuple[bytes, str]:
        """All series in Prometheus' text format, and its media type."""
        from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest, multiprocess

        if "PROMETHEUS_MULTIPROC_DIR" not in os.environ:
            return generate_latest(self._registry), CONTENT_TYPE_LATEST
        together = CollectorRegistry()
        multiprocess.MultiProcessCollector(together)  # type: ignore[no-untyped-call]
        return generate_latest(together), CONTENT_TYPE_LATEST
