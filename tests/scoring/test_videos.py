"""Videos are scored as pictures are, each by the mean of its clips."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from abnn_serve.errors import DataError
from abnn_serve.runtime.predictor import Predictor
from abnn_serve.runtime.settings import DEFAULT_VIDEO_BUNDLE, Settings, default_bundle
from abnn_serve.scoring.score import score
from abnn_serve.scoring.scorer import Columns
from tests.drawing import claiming_rate, draw_shape, encode_video, passing_square, png
from tests.scoring.conftest import fingerprint, table


@pytest.fixture(scope="module")
def predictor() -> Predictor:
    """The default bundle for videos, with drift."""
    bundle = default_bundle().with_name(DEFAULT_VIDEO_BUNDLE)
    return Predictor.from_settings(Settings(bundle=bundle, device="cpu", threads=1), drift=True)


@pytest.fixture(scope="module")
def files() -> dict[str, bytes]:
    """Five videos of different lengths in two folders, one of them cut off, and a picture."""
    rng = np.random.default_rng(5)
    drawn = {
        f"{'pan left' if i % 2 else 'static'}/{i}.avi": encode_video(
            passing_square(rng, rightwards=bool(i % 2), count=16 + 7 * i), container="avi", codec="mpeg4"
        )
        for i in range(5)
    }
    return drawn | {
        "static/cut.avi": drawn["static/4.avi"][:900],
        "static/still.png": png(draw_shape(0, rng)),
    }


@pytest.fixture
def folder(files, tmp_path) -> Path:
    for name, data in files.items():
        path = tmp_path / "in" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return tmp_path / "in"


def test_every_video_is_answered_as_the_predictor_answers_it(predictor, folder, tmp_path):
    summary = score(predictor, str(folder), tmp_path / "out", columns=Columns(top_k=3, logits=True, drift=True))
    rows = table(tmp_path / "out").to_pylist()
    assert (summary.rows, summary.errors, summary.accuracy.n) == (6, 1, 5)
    assert [row["id"] for row in rows] == [
        "pan left/1.avi", "pan left/3.avi", "static/0.avi", "static/2.avi", "static/4.avi", "static/cut.avi",
    ]  # fmt: skip
    names = predictor.bundle.labels.names
    for row in rows[:-1]:
        video = predictor.decode_video(Path(row["source"]).read_bytes())
        whole = predictor.predict_video(video, top_k=3).overall
        assert [top["label"] for top in row["top"]] == [top.label for top in whole.top]
        np.testing.assert_allclose(row["logits"], whole.logits, atol=1e-4)
        drift = np.mean([clip.drift for clip in predictor.predict(video.pixels)], axis=0)
        np.testing.assert_allclose(row["drift_layers"], drift, rtol=1e-4)
        assert row["truth"] == names.index(Path(row["source"]).parent.name)
    assert rows[-1]["label"] is None
    assert "video" in rows[-1]["error"]


def test_a_video_that_claims_a_negative_frame_rate_is_scored(predictor, tmp_path):
    frames = passing_square(np.random.default_rng(2), rightwards=True, count=30)
    (tmp_path / "in").mkdir()
    video = claiming_rate(encode_video(frames, container="flv", codec="flv1"), -25.0)
    (tmp_path / "in" / "clip.flv").write_bytes(video)
    summary = score(predictor, str(tmp_path / "in"), tmp_path / "out")
    assert (summary.rows, summary.errors) == (1, 0)


def test_decoding_elsewhere_and_other_shards_change_no_answer(predictor, folder, tmp_path):
    for workers in (0, 1):
        score(predictor, str(folder), tmp_path / f"{workers}", workers=workers, shard_rows=2)
    assert fingerprint(tmp_path / "0") == fingerprint(tmp_path / "1")
    score(predictor, str(folder), tmp_path / "one")
    assert table(tmp_path / "one")["label"].to_pylist() == table(tmp_path / "0")["label"].to_pylist()


def test_parquet_and_tars_hold_videos_too(predictor, files, folder, tmp_path):
    videos = {name: data for name, data in files.items() if name.endswith(".avi")}
    pq.write_table(pa.table({"video": list(videos.values())}), tmp_path / "videos.parquet")
    with tarfile.open(tmp_path / "videos.tar", "w") as archive:
        for name, data in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    score(predictor, str(folder), tmp_path / "folder")
    answers = {row["id"]: row["probability"] for row in table(tmp_path / "folder").to_pylist()}
    score(predictor, str(tmp_path / "videos.parquet"), tmp_path / "parquet")
    assert table(tmp_path / "parquet")["probability"].to_pylist() == pytest.approx([answers[name] for name in videos])
    score(predictor, str(tmp_path / "videos.tar"), tmp_path / "tar")
    rows = {row["id"].split("#")[1]: row for row in table(tmp_path / "tar").to_pylist()}
    assert {f"{key}.avi": row["probability"] for key, row in rows.items() if key != "static/still"} == pytest.approx(
        answers
    )
    assert rows["static/still"]["error"] == "no video among its files (png)"


def test_each_bundle_takes_its_own_kind_of_files(served, folder, tmp_path):
    assert score(served, str(folder), tmp_path / "pictures").rows == 1
    (folder / "static" / "still.png").unlink()
    with pytest.raises(DataError, match="no images among 6 files"):
        score(served, str(folder), tmp_path / "none")
