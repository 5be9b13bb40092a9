"""docs/other-servers.md: its manifest and its code against the package."""

from __future__ import annotations

import re

import numpy as np
import pytest
import yaml

from tests.docs.pages import ROOT, code_blocks, read_page
from tests.drawing import draw_shape, png

PAGE = read_page("docs/other-servers.md")


def test_the_manifest_for_kserve_sets_variables_that_exist_and_asks_paths_that_do():
    (block,) = code_blocks(PAGE, "yaml")
    (container,) = yaml.safe_load(block)["spec"]["predictor"]["containers"]
    variables = {variable["name"] for variable in container["env"]}
    known = set(re.findall(r"`(ABNN_[A-Z_]+)`", read_page("docs/configuration.md")))
    assert variables - known == {"STORAGE_URI", "BENTOML_HOME"}
    assert f"`GET {container['readinessProbe']['httpGet']['path']}`" in read_page("docs/http.md")


def test_the_losses_behind_triton_are_those_that_the_command_prints():
    from abnn_serve.export.triton import LOST

    rows = [line for line in PAGE.splitlines() if line.startswith("| ")]
    assert len(LOST) == 5
    for word in ("digest", "temperature", "drift", "API keys", "pixels"):
        assert any(word in loss for loss in LOST)
        assert any(word in row for row in rows)


def test_the_deployment_for_ray_serve_answers(monkeypatch):
    serve = pytest.importorskip("ray.serve", reason="needs ray[serve]")
    monkeypatch.chdir(ROOT)
    (code,) = code_blocks(PAGE, "python")
    namespace: dict[str, object] = {}
    exec(code, namespace)

    class Request:
        def __init__(self, data: bytes) -> None:
            self._data = data

        async def body(self) -> bytes:
            return self._data

    handle = serve.run(namespace["app"], _local_testing_mode=True)
    picture = png(draw_shape(1, np.random.default_rng(2)))
    assert handle.remote(Request(picture)).result()["label"]
    assert handle.remote(Request(b"x")).result()["error"]["code"] == "unsupported_format"
