"""The dashboard and the alert rules against the metrics that a worker exposes."""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest
import yaml
from PIL import Image
from prometheus_client.parser import text_string_to_metric_families

from abnn_serve.service.metrics import Metrics
from tests.docs.pages import read_page
from tests.drawing import draw_shape, png
from tests.service.server import serving, wait_until

FOLDER = Path(__file__).parents[1] / "deploy" / "monitoring"
PANELS = json.loads((FOLDER / "grafana-dashboard.json").read_text())["panels"]
RULES = yaml.safe_load((FOLDER / "alerts.yaml").read_text())["groups"][0]["rules"]
QUERIES = [(panel["title"], target["expr"]) for panel in PANELS for target in panel["targets"]] + [
    (rule["alert"], rule["expr"]) for rule in RULES
]
_WORDS = {"sum", "by", "on", "rate", "increase", "max", "abs", "le", "offset", "group_left", "histogram_quantile"}


def _exposed() -> dict[str, set[str]]:
    """Label names by sample name, with one observation in every metric."""
    metrics = Metrics(workers=1)
    for metric in vars(metrics).values():
        if hasattr(metric, "describe"):
            child = metric.labels(*["x"] * len(metric._labelnames)) if metric._labelnames else metric
            getattr(child, "observe", getattr(child, "inc", None))(1)
    families = text_string_to_metric_families(metrics.exposition()[0].decode())
    return {sample.name: set(sample.labels) for family in families for sample in family.samples}


@pytest.mark.parametrize(("title", "query"), QUERIES, ids=[f"{i} {title}" for i, (title, _) in enumerate(QUERIES)])
def test_every_query_asks_for_metrics_and_labels_that_are_exposed(title, query):
    exposed = _exposed()
    names = set(re.findall(r"abnn_\w+", query))
    assert names
    assert names <= exposed.keys()
    labels = set(re.findall(r"\{(\w+)=", query)) | {
        label.strip() for group in re.findall(r"\b(?:by|on) \(([^)]*)\)", query) for label in group.split(",")
    }
    assert labels <= set.union(*(exposed[name] for name in names))
    words = set(re.findall(r"\b[a-z_]+\b", re.sub(r"abnn_\w+|\[[^]]*\]|\"[^\"]*\"|\$\w+", "", query)))
    assert words <= _WORDS | labels
    assert query.count("(") == query.count(")")


def test_panels_do_not_overlap_and_say_what_they_show():
    places = {(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in PANELS}
    assert len(places) == len(PANELS)
    assert all(panel["title"] and panel["fieldConfig"]["defaults"]["unit"] for panel in PANELS)


def test_every_metric_of_quality_is_in_the_dashboard_and_on_the_page():
    page, queries = read_page("docs/monitoring.md"), " ".join(query for _, query in QUERIES)
    for name in re.findall(r"^\| `(abnn_\w+)`", page, re.MULTILINE):
        assert name in queries
    assert set(re.findall(r"^\| `(Abnn\w+)`", page, re.MULTILINE)) == {rule["alert"] for rule in RULES}


def test_a_dashboard_and_rules_have_no_query_for_nothing():
    assert len(QUERIES) > 15
    assert np.all([rule["annotations"]["summary"] for rule in RULES])


@pytest.mark.slow
def test_a_real_prometheus_answers_every_query_of_the_dashboard_and_loads_the_rules(bundle, tmp_path):
    if not shutil.which("prometheus"):
        pytest.skip("needs prometheus")
    random = np.random.default_rng(4)
    shape = np.clip(draw_shape(2, random), 8, 247)
    pictures = [png(Image.fromarray((shape + random.integers(-8, 9, shape.shape)).astype(np.uint8))) for _ in range(40)]
    with serving(
        bundle.path,
        tmp_path / "log",
        ABNN_DRIFT_SAMPLE="1",
        ABNN_SHADOW=f"shapes:{bundle.path}",
        ABNN_CANARY=f"shapes:{bundle.path}:0.5",
        ABNN_NEAR_DUPLICATES="count",
    ) as client:
        target = str(client.base_url).removeprefix("http://")
        job = {"job_name": "abnn", "scrape_interval": "1s", "static_configs": [{"targets": [target]}]}
        config = {"rule_files": [str(FOLDER / "alerts.yaml")], "scrape_configs": [job]}
        (tmp_path / "prometheus.yml").write_text(yaml.safe_dump(config))
        with _prometheus(tmp_path) as prometheus:
            for number, picture in enumerate(pictures):
                caller = {"x-request-id": f"caller-{number}"}
                client.post("/classify?abstain_below=0.9", files={"image": picture}, headers=caller)
                client.post("/classify", files={"image": b"x"}, headers=caller)
                time.sleep(0.25)
            for panel in PANELS:
                for target in panel["targets"]:
                    query = target["expr"].replace("$__rate_interval", "8s")
                    answer = prometheus.get("/api/v1/query", params={"query": query}).json()
                    assert answer["status"] == "success", (query, answer)
                    assert answer["data"]["result"] or "reloads" in query, query
            (group,) = prometheus.get("/api/v1/rules").json()["data"]["groups"]
            assert [rule["name"] for rule in group["rules"]] == [rule["alert"] for rule in RULES]
            for rule in RULES:
                answer = prometheus.get("/api/v1/query", params={"query": rule["expr"]}).json()
                assert answer["status"] == "success", answer


@contextlib.contextmanager
def _prometheus(folder: Path) -> Iterator[httpx.Client]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    options = [f"--config.file={folder / 'prometheus.yml'}", f"--storage.tsdb.path={folder / 'data'}"]
    with (folder / "prometheus.log").open("wb") as out:
        process = subprocess.Popen(
            ["prometheus", *options, f"--web.listen-address={address}"], stdout=out, stderr=subprocess.STDOUT
        )
    try:
        with httpx.Client(base_url=f"http://{address}", timeout=30) as client:
            wait_until(lambda: _is_ready(client))
            yield client
    finally:
        process.terminate()
        process.wait(timeout=30)


def _is_ready(client: httpx.Client) -> bool:
    try:
        return client.get("/-/ready").status_code == httpx.codes.OK
    except httpx.TransportError:
        return False
