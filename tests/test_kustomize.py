"""The Kustomize overlays, rendered by kubectl: valid by schema, and the same objects as the plain manifests."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[1]
PLAIN = {"cpu": "kubernetes.yaml", "cuda": "kubernetes-cuda.yaml"}
needs_kubectl = pytest.mark.skipif(not shutil.which("kubectl"), reason="needs kubectl")


def _render(name: str) -> list[dict[str, Any]]:
    command = ["kubectl", "kustomize", str(ROOT / "kustomize" / name)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return list(yaml.safe_load_all(result.stdout))


def _by_kind(manifests: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    by_kind = {manifest["kind"]: manifest for manifest in manifests}
    for manifest in by_kind.values():  # the order of variables has no meaning
        for variables in (c["env"] for c in manifest["spec"].get("template", {}).get("spec", {}).get("containers", [])):
            variables.sort(key=lambda variable: variable["name"])
    return by_kind


@needs_kubectl
@pytest.mark.parametrize("name", PLAIN)
def test_an_overlay_renders_the_objects_of_the_plain_manifest_which_hold_to_their_schemas(name):
    validate = pytest.importorskip("kubernetes_validate", reason="needs kubernetes-validate")
    rendered = _render(name)
    for manifest in rendered:
        validate.validate(manifest, "1.31", strict=True)
    plain = _by_kind(list(yaml.safe_load_all((ROOT / "deploy" / PLAIN[name]).read_text())))
    shown = _by_kind(rendered)
    assert shown.keys() == plain.keys()
    for kind, manifest in shown.items():
        labels = manifest["metadata"].pop("labels", None)
        assert labels in (None, plain[kind]["metadata"].pop("labels", labels))
        assert manifest == plain[kind], kind


@pytest.mark.parametrize("name", PLAIN)
def test_an_overlay_names_files_that_exist(name):
    overlay = ROOT / "kustomize" / name
    kustomization = yaml.safe_load((overlay / "kustomization.yaml").read_text())
    (base,) = [overlay / resource for resource in kustomization["resources"]]
    for resource in yaml.safe_load((base / "kustomization.yaml").read_text())["resources"]:
        assert (base / resource).is_file()
    assert all((overlay / patch["path"]).is_file() for patch in kustomization.get("patches", []) if "path" in patch)
