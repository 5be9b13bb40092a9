from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import numpy as np
import pytest

from abnn_serve.runtime.prediction_json import prediction_json
from tests.drawing import draw_shape, png
from tests.media.test_image import _png_header
from tests.service.server import serving

PICTURE = png(draw_shape(1, np.random.default_rng(3), 50))


def _upload(client: httpx.Client, data: bytes, **options: object) -> httpx.Response:
    return client.post("/classify", files={"image": ("picture", data)}, **options)


def test_several_images_have_an_outcome_each_in_their_order(client, predictor):
    rng = np.random.default_rng(8)
    pictures = [png(draw_shape(i % 3, rng)) for i in range(5)]
    sent = [*pictures[:2], b"no picture", *pictures[2:]]
    shown = client.post("/classify_batch?top_k=2", files=[("images", ("x", data)) for data in sent]).json()
    assert shown["model"]["digest"] == predictor.bundle.digest
    bad = shown["outcomes"].pop(2)
    assert bad["error"]["code"] == "unsupported_format"
    for outcome, picture in zip(shown["outcomes"], pictures, strict=True):
        expected = prediction_json(predictor.predict(predictor.decode(picture)[None], top_k=2)[0])
        assert [row["label"] for row in outcome["top"]] == [row["label"] for row in expected["top"]]
        assert outcome["probability"] == pytest.approx(expected["probability"], abs=1e-5)


def test_too_many_images_in_one_request_are_413(client):
    files = [("images", ("x", PICTURE))] * 9
    assert "limit of 8" in _error(client.post("/classify_batch", files=files), 413, "too_many_parts")["message"]


def test_a_batch_whose_images_are_all_bad_is_answered_all_the_same(client):
    shown = client.post("/classify_batch", files=[("images", ("x", b"bad"))]).json()
    assert shown["outcomes"][0]["error"]["code"] == "unsupported_format"


def test_the_time_of_each_stage_is_told(client):
    header = _upload(client, PICTURE).headers["server-timing"]
    assert [part.split(";")[0] for part in header.split(", ")] == ["upload", "decode", "queue", "compute"]


def test_a_model_that_is_not_served_is_404_and_names_those_that_are(client):
    response = _upload(client, PICTURE, params={"model": "nix"})
    assert "expected one of shapes" in _error(response, 404, "unknown_model")["message"]
    assert [row["model"]["name"] for row in client.get("/models").json()["models"]] == ["shapes", "other", "clips"]


@pytest.mark.parametrize("path", ["/nothing", "/classify/", "/static_content/index.html", "/docs.json"])
def test_bentomls_own_pages_and_what_is_not_there_are_404_in_the_same_schema(client, path):
    _error(client.get(path), 404, "not_found")


def _error(response: httpx.Response, status: int, code: str) -> dict:
    assert response.status_code == status, response.text
    body = response.json()
    assert set(body) == {"error"}
    assert set(body["error"]) == {"code", "message", "field", "request_id"}
    assert body["error"]["code"] == code
    assert body["error"]["request_id"] == response.headers["x-request-id"]
    assert "\n" not in body["error"]["message"]
    return body["error"]


def test_a_multipart_image_is_classified_as_the_predictor_does(client, predictor):
    shown = _upload(client, PICTURE).json()
    expected = prediction_json(predictor.predict(predictor.decode(PICTURE)[None])[0])
    assert {key: shown[key] for key in expected} == expected
    assert shown["model"]["digest"] == predictor.bundle.digest
    assert shown["provider"] == "CPUExecutionProvider"


@pytest.mark.parametrize("kind", ["image/png", "image/*", "application/octet-stream", "IMAGE/PNG; q=1"])
def test_a_raw_body_gives_the_same_answer(client, kind):
    raw = client.post("/classify", content=PICTURE, headers={"content-type": kind})
    assert raw.status_code == 200
    assert raw.json() == _upload(client, PICTURE).json()


def test_concurrent_requests_get_their_own_answers(client):
    rng = np.random.default_rng(5)
    pictures = [png(draw_shape(i % 3, rng)) for i in range(24)]
    alone = [_upload(client, picture).json() for picture in pictures]
    with ThreadPoolExecutor(12) as pool:
        together = [response.json() for response in pool.map(lambda picture: _upload(client, picture), pictures)]
    for one, other in zip(together, alone, strict=True):
        assert one["model"] == other["model"]
        assert [(c["label"], c["index"]) for c in one["top"]] == [(c["label"], c["index"]) for c in other["top"]]
        # one unit of the last digit shown: 1e-7, as kernels of other batch sizes round, may lie across its border
        shares = [c["probability"] for c in other["top"]]
        assert [c["probability"] for c in one["top"]] == pytest.approx(shares, abs=1.5e-6)


def test_top_k_chooses_how_many_classes_are_named(client):
    assert len(_upload(client, PICTURE, params={"top_k": 2}).json()["top"]) == 2
    for value in ("0", "-1", "many", "1001", "", "1" * 3000):
        error = _error(_upload(client, PICTURE, params={"top_k": value}), 400, "bad_request")
        assert error["field"] == "top_k"


def test_the_model_says_what_it_is_and_what_was_measured(client, bundle):
    shown = client.get("/model").json()
    assert (shown["name"], shown["digest"], shown["provider"]) == ("shapes", bundle.digest, "CPUExecutionProvider")
    assert shown["input"] == {"height": 32, "width": 32, "fit": "crop", "interpolation": "bilinear"}
    assert shown["labels"] == ["circle", "square", "triangle"]
    assert shown["card"]["clean"]["n"] == 64
    assert "has not been evaluated" in shown["card"]["limits"][0]


@pytest.mark.parametrize("path", ["/livez", "/readyz", "/metrics"])
def test_health_and_metrics_answer(client, path):
    assert client.get(path).status_code == 200


@pytest.mark.parametrize("data", [PICTURE[:200], PICTURE[:40] + b"\x00" * 60])
def test_damaged_images_are_400(client, data):
    assert "damaged" in _error(_upload(client, data), 400, "unreadable_input")["message"]


def test_an_empty_image_is_400(client):
    _error(_upload(client, b""), 400, "unreadable_input")
    _error(client.post("/classify", content=b"", headers={"content-type": "image/png"}), 400, "unreadable_input")


def test_something_that_is_no_image_is_415(client):
    _error(_upload(client, b"hello world, this is text"), 415, "unsupported_format")


def test_what_only_begins_like_an_image_is_415(client):
    _error(_upload(client, b"RIFF\x24\0\0\0WAVEfmt "), 415, "unsupported_format")


def test_too_many_bytes_are_413_in_either_form(client):
    error = _error(_upload(client, b"x" * 200_000), 413, "input_too_large")
    assert "100,000 bytes" in error["message"]
    raw = client.post("/classify", content=b"x" * 100_001, headers={"content-type": "image/png"})
    _error(raw, 413, "input_too_large")


def test_a_body_that_grows_past_the_limit_without_declaring_it_is_413(client):
    parts = (b"x" * 10_000 for _ in range(20))
    _error(client.post("/classify", content=parts, headers={"content-type": "image/png"}), 413, "input_too_large")


def test_an_upload_that_is_too_slow_is_408_and_delays_nobody(client):
    def trickle():
        yield PICTURE[:10]
        time.sleep(4)
        yield PICTURE[10:]

    with ThreadPoolExecutor() as pool:
        slow = pool.submit(lambda: client.post("/classify", content=trickle(), headers={"content-type": "image/png"}))
        assert _upload(client, PICTURE).status_code == 200
        assert not slow.done()
        _error(slow.result(timeout=20), 408, "request_timeout")


def test_a_decompression_bomb_is_413(client):
    _error(_upload(client, _png_header(50_000, 50_000)), 413, "input_too_large")


@pytest.mark.parametrize("kind", ["application/json", "text/plain", None])
def test_a_body_of_another_type_is_415(client, kind):
    response = client.post("/classify", content=b"{}", headers={"content-type": kind} if kind else {})
    assert _error(response, 415, "unsupported_media_type")["field"] == "content-type"


def test_a_text_part_is_422_and_never_fetched(client):
    response = client.post("/classify", data={"image": "http://127.0.0.1:1/x.png"}, files={"other": b"x"})
    error = _error(response, 422, "wrong_part")
    assert (error["field"], "URLs are never fetched" in error["message"]) == ("image", True)


def test_a_form_without_the_field_is_400_and_names_it(client):
    error = _error(client.post("/classify", files={"picture": PICTURE}), 400, "bad_request")
    assert (error["field"], "has no field 'image'" in error["message"]) == ("image", True)


@pytest.mark.parametrize("kind", ["multipart/form-data", "multipart/form-data; boundary=x"])
def test_a_broken_form_is_400(client, kind):
    _error(client.post("/classify", content=b"garbage", headers={"content-type": kind}), 400, "bad_request")


def test_another_method_is_405_in_the_same_schema(client):
    assert client.get("/classify").headers["allow"] == "POST"
    _error(client.get("/classify"), 405, "method_not_allowed")


def test_the_clients_request_id_is_kept_if_it_is_well_formed(client):
    assert _upload(client, PICTURE, headers={"x-request-id": "abc-1"}).headers["x-request-id"] == "abc-1"
    made = _upload(client, PICTURE, headers={"x-request-id": "a b\tc"}).headers["x-request-id"]
    assert len(made) == 32


def test_serve_refuses_a_damaged_bundle_in_one_line(bundle, tmp_path):
    import shutil

    broken = tmp_path / "broken"
    shutil.copytree(bundle.path, broken)
    (broken / "labels.json").unlink()
    command = [sys.executable, "-c", "from abnn_serve.cli.main import main; main()", "serve", "--bundle", str(broken)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 1
    assert result.stderr.startswith("abnn: ")
    assert result.stderr.count("\n") == 1
    assert "labels.json is missing" in result.stderr


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ("nowhere", r"abnn: .*nowhere is not a bundle.*"),
        ("pictures", r"abnn: ABNN_VIDEO_BUNDLE is .*, which classifies images; .*"),
    ],
)
def test_serve_refuses_a_video_bundle_that_is_none_before_it_starts(bundle, tmp_path, other, message):
    shutil.copytree(bundle.path, tmp_path / "pictures")
    command = [sys.executable, "-c", "from abnn_serve.cli.main import main; main()", "serve"]
    bundles = {"ABNN_BUNDLE": str(bundle.path), "ABNN_VIDEO_BUNDLE": str(tmp_path / other), "ABNN_DEVICE": "cpu"}
    environment = {**os.environ, **bundles}
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=120)
    serving, refused = result.stderr.splitlines()
    assert serving.startswith("serving shapes version 1")
    assert re.fullmatch(message, refused)
    assert result.returncode == 1


@pytest.mark.data
def test_predict_and_the_service_agree_to_the_last_digit_on_200_real_images(data_folder, tmp_path):
    import pyarrow.parquet as pq

    from abnn_serve.runtime.settings import default_bundle

    column = pq.ParquetFile(data_folder / "cifar10-test.parquet").read_row_group(0, columns=["image"])["image"]
    images = [image.as_py() for image in column[:200]]
    assert len(images) == 200
    files = [tmp_path / f"{index:03}.jpg" for index in range(200)]
    for file, image in zip(files, images, strict=True):
        file.write_bytes(image)
    command = [
        sys.executable,
        "-c",
        "from abnn_serve.cli.main import main; main()",
        "predict",
        "--json",
    ]
    lines = subprocess.run([*command, *map(str, files)], capture_output=True, text=True, check=True).stdout.splitlines()
    with serving(default_bundle(), tmp_path / "log") as client:
        for line, image in zip(lines, images, strict=True):
            shown = _upload(client, image).json()
            assert {key: shown[key] for key in ("label", "index", "probability", "top")} == {
                key: value for key, value in json.loads(line).items() if key != "file"
            }
