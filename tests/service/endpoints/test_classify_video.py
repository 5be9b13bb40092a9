"""POST /classify_video: the same answers as the command line's, and plain refusals."""

from __future__ import annotations

import json

import numpy as np
import pytest
from typer.testing import CliRunner

from abnn_serve.cli.main import app as cli
from abnn_serve.runtime.settings import DEFAULT_BUNDLE, DEFAULT_VIDEO_BUNDLE
from tests.drawing import claiming_rate, draw_shape, encode_video, passing_square, png
from tests.service.server import serving

PICTURE = png(draw_shape(0, np.random.default_rng(0)))


def _video(container: str = "mp4", codec: str = "libx264") -> bytes:
    return encode_video(
        passing_square(np.random.default_rng(1), rightwards=False, count=30), container=container, codec=codec
    )


def _refused(response, status: int, text: str, field: str = "video") -> None:
    assert response.status_code == status
    error = response.json()["error"]
    assert text in error["message"], error
    assert error["field"] == field


@pytest.mark.parametrize(("container", "codec"), [("mp4", "libx264"), ("avi", "mpeg4")])
def test_a_video_gets_its_classes_and_its_clips(client, video_bundle, container, codec, tmp_path, monkeypatch):
    video = _video(container, codec)
    found = client.post("/classify_video", files={"video": ("clip", video)}).json()
    assert found["label"] in ("left", "right")
    assert [clip["frames"] for clip in found["clips"]] == [[0, 2, 4, 6], [23, 25, 27, 29]]
    assert found["clips"][1]["end"] == pytest.approx(29 / 25, abs=0.002)
    assert found["frames"]["found"] == found["frames"]["expected"] == 30
    raw = client.post("/classify_video?top_k=1", content=video, headers={"content-type": "video/mp4"}).json()
    assert raw["top"] == found["top"][:1]
    path = tmp_path / f"clip.{container}"
    path.write_bytes(video)
    monkeypatch.setenv("ABNN_DEVICE", "cpu")
    shown = CliRunner().invoke(cli, ["predict", str(path), "--json", "--bundle", str(video_bundle.path)])
    predicted = json.loads(shown.stdout)
    assert {key: found[key] for key in ("top", "clips", "frames", "seconds")} == {
        key: predicted[key] for key in ("top", "clips", "frames", "seconds")
    }


def test_pictures_and_videos_at_the_wrong_endpoint_get_415(client):
    _refused(client.post("/classify_video", files={"video": ("x.png", PICTURE)}), 415, "not a video")
    _refused(client.post("/classify", files={"image": ("x.mp4", _video())}), 415, "not an image", "image")
    for path, kind, field in (
        ("/classify_video", "image/png", "content-type"),
        ("/classify", "video/mp4", "content-type"),
    ):
        _refused(client.post(path, content=b"x", headers={"content-type": kind}), 415, "content type", field)


def test_what_is_beyond_the_limits_gets_413(client):
    _refused(client.post("/classify_video", files={"video": ("x", b"x" * 60_000)}), 413, "50,000")
    long = encode_video(passing_square(np.random.default_rng(1), rightwards=True, count=90))
    _refused(client.post("/classify_video", files={"video": ("x", long)}), 413, "the limit is 3")


def test_damaged_forms_and_videos_get_400_and_text_422(client):
    _refused(client.post("/classify_video", files={"video": ("x", b"\x1a\x45\xdf\xa3 no more")}), 400, "damaged")
    _refused(client.post("/classify_video", files={"image": ("x", _video())}), 400, "no field 'video'")
    _refused(client.post("/classify_video", data={"video": "http://x/y.mp4"}, files={"z": b""}), 422, "never fetched")


def test_plain_serve_answers_pictures_and_videos_with_the_bundles_of_the_package(tmp_path):
    lying = claiming_rate(_video("flv", "flv1"), -25.0)
    with serving(None, tmp_path / "log") as client:
        shown = client.get("/models").json()["models"]
        assert [row["model"]["name"] for row in shown] == [DEFAULT_BUNDLE, DEFAULT_VIDEO_BUNDLE]
        for path, field, data in (
            ("/classify", "image", PICTURE),
            ("/classify_video", "video", _video()),
            ("/classify_video", "video", lying),
        ):
            assert client.post(path, files={field: data}).status_code == 200
