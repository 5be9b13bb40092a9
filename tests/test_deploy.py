"""The deployment manifests, against their schemas and against the code."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

ROOT = Path(__file__).parents[1]
MANIFESTS = list(yaml.safe_load_all((ROOT / "deploy" / "kubernetes.yaml").read_text()))
CUDA_MANIFESTS = list(yaml.safe_load_all((ROOT / "deploy" / "kubernetes-cuda.yaml").read_text()))
DEPLOYMENTS = [MANIFESTS[0], CUDA_MANIFESTS[0]]
COMPOSE = yaml.safe_load((ROOT / "deploy" / "compose.yaml").read_text())


def _name(manifest: dict) -> str:
    return f"{manifest['kind']} {manifest['metadata']['name']}"


@pytest.mark.parametrize("manifest", [*MANIFESTS, *CUDA_MANIFESTS], ids=_name)
def test_the_kubernetes_manifest_holds_to_the_schema_of_its_kind(manifest):
    validate = pytest.importorskip("kubernetes_validate", reason="needs kubernetes-validate")
    validate.validate(manifest, "1.31", strict=True)


@pytest.mark.parametrize("deployment", DEPLOYMENTS, ids=_name)
def test_probes_ask_paths_that_are_there_and_everything_is_limited(deployment):
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    paths = {container[f"{kind}Probe"]["httpGet"]["path"] for kind in ("startup", "readiness", "liveness")}
    assert paths == {"/readyz", "/livez"}
    assert {"cpu", "memory", "ephemeral-storage"} <= set(container["resources"]["limits"])
    for service in COMPOSE["services"].values():
        assert "/readyz" in " ".join(service["healthcheck"]["test"])
        assert {"memory", "pids"} <= set(service["deploy"]["resources"]["limits"])
        assert all("size=" in mount for mount in service["tmpfs"])


def test_the_limit_on_memory_holds_what_the_sizing_page_adds_up():
    from abnn_serve.media.limits import ImageLimits
    from abnn_serve.service.settings import ServiceSettings

    page = " ".join((ROOT / "docs" / "sizing.md").read_text().split())
    worker, supervisor = re.search(
        r"and (\d+) MB with the default video bundle .* supervisor uses (\d+) MB", page
    ).groups()
    decoding = 10 * ImageLimits().max_pixels
    needed = 1_000_000 * (int(worker) + int(supervisor)) + ServiceSettings().max_buffered_bytes + decoding
    (container,) = MANIFESTS[0]["spec"]["template"]["spec"]["containers"]
    (scratch,) = [v["emptyDir"] for v in MANIFESTS[0]["spec"]["template"]["spec"]["volumes"] if "emptyDir" in v]
    resources, mebibytes = container["resources"], int(scratch["sizeLimit"].removesuffix("Mi"))
    assert resources["requests"]["memory"] == resources["limits"]["memory"] == "2Gi"
    assert needed + (mebibytes << 20) < 2 << 30
    assert COMPOSE["services"]["abnn"]["deploy"]["resources"]["limits"]["memory"] == "2G"
    assert COMPOSE["x-service"]["tmpfs"] == [f"/tmp:size={mebibytes}m,mode=1777"]
    assert "`deploy/` requests 2 GiB" in page


@pytest.mark.parametrize("manifests", [MANIFESTS, CUDA_MANIFESTS], ids=["cpu", "cuda"])
def test_a_pod_has_no_token_of_the_cluster_and_opens_no_connection(manifests):
    pod = manifests[0]["spec"]["template"]["spec"]
    assert pod["automountServiceAccountToken"] is False
    assert pod["securityContext"]["runAsNonRoot"]
    (container,) = pod["containers"]
    assert container["securityContext"]["readOnlyRootFilesystem"]
    assert not container["securityContext"]["allowPrivilegeEscalation"]
    (policy,) = [manifest["spec"] for manifest in manifests if manifest["kind"] == "NetworkPolicy"]
    assert policy["podSelector"]["matchLabels"] == manifests[0]["spec"]["template"]["metadata"]["labels"]
    assert set(policy["policyTypes"]) == {"Ingress", "Egress"}
    assert policy["egress"] == []
    (rule,) = policy["ingress"]
    assert rule == {"ports": [{"port": container["ports"][0]["name"], "protocol": "TCP"}]}


def test_a_pod_on_a_gpu_has_one_and_needs_no_spare_one_for_a_rollout():
    deployment = CUDA_MANIFESTS[0]
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    image = yaml.safe_load((ROOT / "bentofile.cuda.yaml").read_text())["name"]
    assert container["image"] == COMPOSE["services"]["abnn-cuda"]["image"] == f"{image}:latest"
    assert container["resources"]["limits"]["nvidia.com/gpu"] == 1
    assert {"name": "ABNN_DEVICE", "value": "cuda"} in container["env"]
    assert deployment["spec"]["strategy"]["rollingUpdate"] == {"maxUnavailable": 1, "maxSurge": 0}
    probe = container["startupProbe"]
    assert probe["periodSeconds"] * probe["failureThreshold"] >= 300
    (device,) = COMPOSE["services"]["abnn-cuda"]["deploy"]["resources"]["reservations"]["devices"]
    assert device == {"driver": "nvidia", "count": 1, "capabilities": ["gpu"]}
    assert COMPOSE["services"]["abnn-cuda"]["environment"]["ABNN_DEVICE"] == "cuda"


def test_what_is_deployed_answers_with_the_default_bundle():
    from abnn_serve.runtime.settings import default_bundle
    from abnn_serve.service.sources import find_bundles

    common = COMPOSE["x-service"]
    assert common["volumes"][0] == "${ABNN_MODELS:-../models}:/models:ro"
    assert common["environment"]["ABNN_BUNDLE"] == "/models"
    assert find_bundles(ROOT / "models")[0] == str(default_bundle())
    (container,) = MANIFESTS[0]["spec"]["template"]["spec"]["containers"]
    assert "ABNN_BUNDLE" not in {variable["name"] for variable in container["env"]}


def test_a_host_waits_longer_for_the_end_than_an_accepted_request_may_take():
    from abnn_serve.service.settings import ServiceSettings

    limits = ServiceSettings()
    longest = limits.upload_seconds + limits.deadline_seconds
    for deployment in DEPLOYMENTS:
        pod = deployment["spec"]["template"]["spec"]
        (drain,) = [int(v["value"]) for v in pod["containers"][0]["env"] if v["name"] == "ABNN_DRAIN_SECONDS"]
        assert pod["terminationGracePeriodSeconds"] >= longest + drain
    assert int(COMPOSE["x-service"]["stop_grace_period"].removesuffix("s")) >= longest + limits.drain_seconds


def test_every_deployment_asks_for_api_keys():
    assert "${ABNN_KEYS:-../keys}:/keys:ro" in COMPOSE["x-service"]["volumes"]
    for service in COMPOSE["services"].values():
        assert service["environment"]["ABNN_API_KEY_FILE"] == "/keys/keys.txt"
    for deployment in DEPLOYMENTS:
        (container,) = deployment["spec"]["template"]["spec"]["containers"]
        assert "ABNN_API_KEY_FILE" in {variable["name"] for variable in container["env"]}


def test_every_variable_that_is_set_is_documented():
    text = "".join(file.read_text() for file in (ROOT / "deploy").glob("*.yaml"))
    page = (ROOT / "docs" / "configuration.md").read_text()
    known = set(re.findall(r"`(ABNN_[A-Z_]+)`", page)) | {"ABNN_MODELS", "ABNN_KEYS", "ABNN_PORT"}
    assert set(re.findall(r"ABNN_[A-Z_]+", text)) <= known


def _locked(bentofile: str) -> dict[str, Requirement]:
    """The pinned packages of an image on x86-64, by name."""
    file = ROOT / yaml.safe_load((ROOT / bentofile).read_text())["python"]["requirements_txt"]
    lines = [line for line in file.read_text().splitlines() if not line.startswith("#")]
    machine = {"platform_machine": "x86_64", "sys_platform": "linux"}
    pins = [Requirement(line) for line in lines]
    return {pin.name: pin for pin in pins if not pin.marker or pin.marker.evaluate(machine)}


def _needed(extra: str = "") -> list[Requirement]:
    """What the package needs on x86-64, or an extra of it."""
    machine = {"platform_machine": "x86_64", "sys_platform": "linux"}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    texts = project["optional-dependencies"][extra] if extra else project["dependencies"]
    needed = [Requirement(text) for text in texts]
    return [requirement for requirement in needed if not requirement.marker or requirement.marker.evaluate(machine)]


@pytest.mark.parametrize("name", ["bentofile.yaml", "bentofile.cuda.yaml"])
def test_an_image_installs_pinned_versions_of_what_the_package_needs(name):
    locked = _locked(name)
    assert all(re.fullmatch(r"==[\w.]+", str(pin.specifier)) for pin in locked.values())
    for requirement in [*_needed(), *_needed("sign")]:
        version = str(locked[requirement.name].specifier).removeprefix("==")
        assert requirement.specifier.contains(version), requirement
    assert {"torch", "pytest"}.isdisjoint(locked)


@pytest.mark.parametrize("name", ["requirements.txt", "requirements-cuda.txt"])
def test_a_lock_file_names_no_place_to_install_from(name):
    text = (ROOT / "deploy" / name).read_text()
    assert "://" not in text
    assert not re.search(r"^-", text, re.MULTILINE)


def test_packages_whose_internals_are_used_have_the_same_bounds_everywhere():
    from abnn_serve.service.compatibility import VERSIONS

    needed = {requirement.name: requirement.specifier for requirement in _needed()}
    assert {name: needed[name] for name in VERSIONS} == {name: SpecifierSet(text) for name, text in VERSIONS.items()}


def test_versions_with_known_faults_are_not_allowed():
    table = (ROOT / "SECURITY.md").read_text()
    floors = dict(re.findall(r"^\| ([a-z-]+) \| ([\d.]+) \|", table, re.MULTILINE))
    assert len(floors) > 3
    needed = {requirement.name: str(requirement.specifier) for requirement in _needed()}
    for name, floor in floors.items():
        assert f">={floor}" in needed[name].split(",")


def test_what_is_installed_for_cuda_can_replay_cuda_graphs():
    from abnn_serve.runtime.cuda import GRAPHS_SINCE

    oldest = f"{GRAPHS_SINCE[0]}.{GRAPHS_SINCE[1]}"
    extra = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]["cuda"]
    assert extra[0].split(";")[0] == f"onnxruntime-gpu[cuda,cudnn]>={oldest}"
    locked = _locked("bentofile.cuda.yaml")
    assert SpecifierSet(f">={oldest}").contains(str(locked["onnxruntime-gpu"].specifier).removeprefix("=="))
    assert {"nvidia-cudnn-cu13", "nvidia-cublas", "nvidia-cuda-runtime", "onnx-ir", "onnx"} <= set(locked)


def test_services_of_one_compose_profile_share_no_port():
    ports: dict[str, list[str]] = {}
    for service in COMPOSE["services"].values():
        assert service["profiles"], "a service without a profile starts beside every other"
        for profile in service["profiles"]:
            ports.setdefault(profile, []).extend(service["ports"])
    assert all(len(set(taken)) == len(taken) for taken in ports.values())
