"""Answers by a rule, and their certificates, over HTTP."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import httpx
import numpy as np
import pytest

from abnn_serve.answer import Answer, Noise
from abnn_serve.bundle.store import Bundle, write_bundle
from abnn_serve.errors import ConfigError
from abnn_serve.runtime.prediction_json import prediction_json, video_prediction_json
from abnn_serve.runtime.predictor import Predictor
from abnn_serve.runtime.settings import Settings
from abnn_serve.service.sources import check_noise_key
from tests.drawing import draw_shape, png
from tests.service.server import serving

PICTURE = png(draw_shape(1, np.random.default_rng(3), 50))
KEY = b"0123456789abcdef"
DEADLINE = 10


@pytest.fixture(scope="module")
def costly(noise_bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A bundle whose certificate takes more passes than any deadline allows."""
    files = {name: noise_bundle.read(name) for name in noise_bundle.manifest.files}
    answer = Answer(noise=Noise(sigma=0.1, n=99_000, n0=10))
    return write_bundle(
        tmp_path_factory.mktemp("bundles") / "costly",
        files,
        lambda entries: replace(noise_bundle.manifest, name="costly", files=entries, answer=answer),
    )


@pytest.fixture(scope="module")
def client(
    bundle: Bundle,
    masks_bundle: Bundle,
    noise_bundle: Bundle,
    masks_clips_bundle: Bundle,
    costly: Bundle,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[httpx.Client]:
    folder = tmp_path_factory.mktemp("server")
    (folder / "key").write_bytes(KEY)
    paths = (str(each.path) for each in (masks_bundle, noise_bundle, masks_clips_bundle, costly, bundle))
    settings = {"ABNN_NOISE_KEY_FILE": str(folder / "key"), "ABNN_DEADLINE_SECONDS": str(DEADLINE)}
    with serving(Path(",".join(paths)), folder / "log", **settings) as client:
        yield client


def _ask(client: httpx.Client, **query: str) -> httpx.Response:
    return client.post("/classify", params=query, content=PICTURE, headers={"content-type": "image/png"})


@pytest.mark.parametrize("certify", [False, True])
@pytest.mark.parametrize("name", ["masks", "noise"])
def test_an_image_is_answered_and_certified_as_the_predictor_does(client, masks_bundle, noise_bundle, name, certify):
    bundle = {"masks": masks_bundle, "noise": noise_bundle}[name]
    predictor = Predictor.from_settings(Settings(bundle=bundle.path, device="cpu", threads=1, noise_key=KEY))
    expected = prediction_json(predictor.predict(predictor.decode(PICTURE)[None], certify=certify)[0])
    response = _ask(client, model=name, certify=str(certify).lower())
    shown = response.json()
    assert response.status_code == 200, shown
    assert shown["label"] == expected["label"]
    assert shown["probability"] == pytest.approx(expected["probability"], abs=1e-4)
    assert shown.get("certificate") == expected.get("certificate")
    assert "compute" in response.headers["server-timing"]


def test_a_batch_of_images_has_a_certificate_each(client):
    files = [("images", ("x", PICTURE)), ("images", ("y", b"none")), ("images", ("z", PICTURE))]
    outcomes = client.post("/classify_batch?certify=true", files=files).json()["outcomes"]
    assert [outcome.get("certificate", {}).get("passes") for outcome in outcomes] == [45, None, 45]


def test_a_video_is_certified_as_the_predictor_does(client, masks_clips_bundle, videos):
    predictor = Predictor.open(masks_clips_bundle.path, device="cpu", threads=1)
    data = min(Path(videos["val"]).rglob("*.avi")).read_bytes()
    video = predictor.decode_video(data)
    expected = video_prediction_json(predictor.predict_video(video, certify=True), video)
    shown = client.post("/classify_video?certify=true", content=data, headers={"content-type": "video/avi"}).json()
    assert shown["label"] == expected["label"]
    assert shown["certificate"] == expected["certificate"]
    assert [clip["certificate"] for clip in shown["clips"]] == [clip["certificate"] for clip in expected["clips"]]


def test_the_protocol_answers_by_the_rule(client, masks_bundle, val_data):
    predictor = Predictor.open(masks_bundle.path, device="cpu", threads=1)
    tensor = {
        "name": "image",
        "datatype": "UINT8",
        "shape": [3, 32, 32, 3],
        "data": val_data.images[:3].ravel().tolist(),
    }
    shown = client.post("/v2/models/masks/infer", json={"inputs": [tensor]}).json()["outputs"][0]
    expected = np.stack([prediction.logits for prediction in predictor.predict(val_data.images[:3])])
    np.testing.assert_allclose(np.reshape(shown["data"], shown["shape"]), expected, atol=1e-4)


@pytest.mark.parametrize("name", ["masks", "noise"])
@pytest.mark.parametrize("binary", [False, True])
def test_the_protocol_gives_proofs_as_tensors_beside_the_logits(
    client, masks_bundle, noise_bundle, val_data, name, binary
):
    bundle = {"masks": masks_bundle, "noise": noise_bundle}[name]
    predictor = Predictor.from_settings(Settings(bundle=bundle.path, device="cpu", threads=1, noise_key=KEY))
    expected = [p.certificate for p in predictor.predict(val_data.images[:3], certify=True)]
    pixels = {
        "name": "image",
        "datatype": "UINT8",
        "shape": [3, 32, 32, 3],
        "data": val_data.images[:3].ravel().tolist(),
    }
    request = {"inputs": [pixels], "parameters": {"binary_data_output": binary}}
    response = client.post(f"/v2/models/{name}/infer?certify=true", json=request)
    assert response.status_code == 200, response.text
    head = int(response.headers.get("Inference-Header-Content-Length", len(response.content)))
    outputs = {output["name"]: output for output in json.loads(response.content[:head])["outputs"]}
    assert list(outputs) == ["logits", "certified"] + ["radius"] * (name == "noise")
    certified, radius = outputs["certified"], outputs.get("radius", {})
    assert (certified["datatype"], certified["shape"]) == ("BOOL", [3])
    if binary:
        tail = response.content[head + outputs["logits"]["parameters"]["binary_data_size"] :]
        certified["data"], radius["data"] = np.frombuffer(tail, "?", 3), np.frombuffer(tail[3:], "<f4")
    assert list(certified["data"]) == [certificate.certified for certificate in expected]
    if name == "noise":
        np.testing.assert_allclose(radius["data"], [certificate.radius for certificate in expected], atol=1e-6)


def test_a_model_tells_its_rule_and_its_passes(client):
    shown = client.get("/model", params={"model": "masks"}).json()
    assert shown["answer"]["masks"]["patch"] == [5, 5]
    assert shown["passes"] == {"answer": 45, "certificate": 45}
    assert client.get("/model", params={"model": "shapes"}).json()["passes"] == {"answer": 1}


@pytest.mark.parametrize(
    ("query", "message"),
    [
        (
            {"model": "shapes", "certify": "true"},
            "answers in one pass and proves nothing of its answers; choose a model",
        ),
        ({"certify": "yes"}, "certify is 'yes', expected true or false"),
    ],
)
def test_a_certificate_that_cannot_be_given_is_a_bad_request(client, query, message):
    response = _ask(client, **query)
    assert (response.status_code, response.json()["error"]["field"]) == (400, "certify")
    assert message in response.json()["error"]["message"]


def test_passes_that_cannot_end_before_the_deadline_are_refused_at_once_with_their_number(client):
    assert _ask(client, model="costly").status_code == 200
    started = time.perf_counter()
    files = [("images", ("x", PICTURE))] * 20
    response = client.post("/classify_batch", params={"model": "costly", "certify": "true"}, files=files)
    assert time.perf_counter() - started < DEADLINE / 2
    assert (response.status_code, response.json()["error"]["code"]) == (503, "deadline_exceeded")
    assert "needs 1,980,200 passes, which take at least" in response.json()["error"]["message"]


def test_certificates_and_plain_answers_of_a_busy_server_all_meet_their_deadline(client):
    """Eight clients ask for certificates without a pause while others ask for plain answers."""

    def certify(_: int) -> list[int]:
        return [_ask(client, model=name, certify="true").status_code for name in ("masks", "noise") * 4]

    with ThreadPoolExecutor(8) as pool:
        certified = [pool.submit(certify, index) for index in range(8)]
        plain, waits = [], []
        while not all(task.done() for task in certified):
            started = time.perf_counter()
            plain.append(_ask(client, model="masks").status_code)
            waits.append(time.perf_counter() - started)
    assert {status for task in certified for status in task.result()} == {200}
    assert set(plain) == {200}
    assert max(waits) < DEADLINE


def test_noise_without_a_key_is_not_served(noise_bundle, masks_bundle):
    settings = Settings(bundle=noise_bundle.path, device="cpu", threads=1)
    with pytest.raises(ConfigError, match=r"clients could predict it; set ABNN_NOISE_KEY_FILE .* head -c 32"):
        check_noise_key(settings, Predictor.from_settings(settings))
    check_noise_key(settings, Predictor.from_settings(replace(settings, bundle=masks_bundle.path)))


@pytest.mark.parametrize(
    ("content", "message"), [(None, "cannot be read"), (b"short", "holds 5 bytes, expected at least 16")]
)
def test_a_noise_key_file_that_cannot_be_used_is_refused(tmp_path, content, message):
    if content is not None:
        (tmp_path / "key").write_bytes(content)
    with pytest.raises(ConfigError, match=message):
        Settings.from_environment({"ABNN_NOISE_KEY_FILE": str(tmp_path / "key")})
    (tmp_path / "good").write_bytes(KEY)
    environment = {"ABNN_NOISE_KEY_FILE": str(tmp_path / "good")}
    assert Settings.from_environment(environment).noise_key == KEY
    assert KEY.decode() not in repr(Settings.from_environment(os.environ | environment))
