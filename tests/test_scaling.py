"""deploy/scaling.yaml against its schema, the deployments that it names and the metrics that workers expose."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from abnn_serve.service.metrics import Metrics

FOLDER = Path(__file__).parents[1] / "deploy"
AUTOSCALER, MONITOR = yaml.safe_load_all((FOLDER / "scaling.yaml").read_text())
DEPLOYMENTS = {
    manifest["metadata"]["name"]: manifest
    for name in ("kubernetes.yaml", "kubernetes-cuda.yaml")
    for manifest in yaml.safe_load_all((FOLDER / name).read_text())
    if manifest["kind"] == "Deployment"
}


def test_the_autoscaler_holds_to_the_schema_of_its_kind():
    validate = pytest.importorskip("kubernetes_validate", reason="needs kubernetes-validate")
    validate.validate(AUTOSCALER, "1.31", strict=True)


def test_the_autoscaler_scales_a_deployment_by_a_metric_that_it_exposes():
    deployment = DEPLOYMENTS[AUTOSCALER["spec"]["scaleTargetRef"]["name"]]
    assert AUTOSCALER["spec"]["minReplicas"] == deployment["spec"]["replicas"]
    (metric,) = [metric["pods"]["metric"]["name"] for metric in AUTOSCALER["spec"]["metrics"] if "pods" in metric]
    assert f"# TYPE {metric} gauge" in Metrics(workers=1).exposition()[0].decode()


def test_the_load_at_which_it_scales_is_within_the_limits_of_a_pod():
    (container,) = DEPLOYMENTS["abnn"]["spec"]["template"]["spec"]["containers"]
    (cpu,) = [metric["resource"]["target"] for metric in AUTOSCALER["spec"]["metrics"] if "resource" in metric]
    requested, limit = (float(container["resources"][key]["cpu"]) for key in ("requests", "limits"))
    assert cpu["averageUtilization"] / 100 * requested < limit


def test_the_monitor_reads_the_metrics_of_both_deployments_with_a_key():
    (selector,) = MONITOR["spec"]["selector"]["matchExpressions"]
    labels = {deployment["spec"]["template"]["metadata"]["labels"]["app"] for deployment in DEPLOYMENTS.values()}
    assert set(selector["values"]) == labels
    (endpoint,) = MONITOR["spec"]["podMetricsEndpoints"]
    for deployment in DEPLOYMENTS.values():
        (container,) = deployment["spec"]["template"]["spec"]["containers"]
        assert endpoint["port"] in {port["name"] for port in container["ports"]}
    assert endpoint["path"] == "/metrics"
    assert endpoint["authorization"]["credentials"].keys() == {"name", "key"}
