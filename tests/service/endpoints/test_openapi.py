"""The OpenAPI document against the server that serves it: its examples work, and schemathesis finds nothing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.drawing import draw_shape, encode_video, passing_square, png

HOOKS = """
import base64, schemathesis
from hypothesis import strategies as st
from schemathesis.checks import load_all_checks

pictures, clips = ([base64.b64decode(text) for text in texts] for texts in ({pictures!r}, {clips!r}))
PICTURES = st.sampled_from(pictures)
schemathesis.openapi.format("binary", PICTURES)
schemathesis.openapi.media_type("image/*", PICTURES)
schemathesis.openapi.media_type("video/*", st.sampled_from(clips))
"""


@pytest.fixture(scope="module")
def document(server):
    return server.client.get("/openapi.json").json()


def test_every_path_and_method_of_the_document_is_there(client, document):
    for path, methods in document["paths"].items():
        for method in methods:
            answer = client.request(method, path.replace("{name}", "shapes"))
            assert answer.status_code in (200, 400, 415), (method, path, answer.text)


def test_the_examples_work(client, document):
    for path in ("/v2/models/shapes/infer", "/v2/models/clips/infer"):
        infer = document["paths"][path]["post"]["requestBody"]["content"]["application/json"]
        assert client.post(path, json=infer["example"]).status_code == 200
    sent = {path: png(draw_shape(0, np.random.default_rng(0))) for path in ("/classify", "/classify_batch")}
    sent["/classify_video"] = encode_video(passing_square(np.random.default_rng(1), rightwards=True))
    for path, file in sent.items():
        operation = document["paths"][path]["post"]
        examples = {part["name"]: part["example"] for part in operation["parameters"]}
        (field,) = operation["requestBody"]["content"]["multipart/form-data"]["schema"]["properties"]
        assert f"-F {field}=@" in operation["x-codeSamples"][0]["source"]
        assert client.post(path, params=examples, files={field: file}).status_code == 200


@pytest.mark.slow
def test_schemathesis_finds_nothing(server, tmp_path):
    import base64

    rng = np.random.default_rng(1)
    pictures = [base64.b64encode(png(draw_shape(label, rng))).decode() for label in range(3)]
    clips = [base64.b64encode(encode_video(passing_square(rng, rightwards=True))).decode()]
    (tmp_path / "hooks.py").write_text(HOOKS.format(pictures=pictures, clips=clips))
    key = server.client.headers["authorization"].removeprefix("Bearer ")
    # Data of another length than its shape says is refused with 422, which a JSON schema cannot say; 413 is a refusal.
    (tmp_path / "schemathesis.toml").write_text(
        f'[auth.openapi.key]\nbearer = "{key}"\n[checks]\n'
        'positive_data_acceptance.expected-statuses = ["2xx", "401", "403", "404", "409", "422", "5xx"]\n'
        'negative_data_rejection.expected-statuses = ["400", "401", "404", "405", "408", "413", "415", "422"]\n'
    )
    url = server.client.base_url
    command = [
        str(Path(sys.executable).with_name("schemathesis")), "run", f"{url}/openapi.json",
        "--header", f"Authorization: {server.client.headers['authorization']}",
        "--max-examples", "25", "--seed", "7", "--no-color",
    ]  # fmt: skip
    environment = {**os.environ, "SCHEMATHESIS_HOOKS": "hooks", "PYTHONPATH": str(tmp_path)}
    result = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout[-6000:] + result.stderr[-2000:]
    assert "No issues found" in result.stdout
    assert json.loads(server.client.get("/readyz").text) == {"ready": True}
