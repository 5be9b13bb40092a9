from __future__ import annotations

from pathlib import Path

import pytest

from abnn_serve.errors import ConfigError
from abnn_serve.hardware import _cgroup_quota, usable_cores
from abnn_serve.media.limits import VideoLimits
from abnn_serve.runtime.settings import Settings, default_bundle


def test_defaults_serve_the_default_bundle_on_any_device():
    settings = Settings.from_environment({})
    assert (settings.bundle, settings.device, settings.threads, settings.digest) == (
        default_bundle(),
        "auto",
        None,
        None,
    )


def test_every_variable_is_read():
    settings = Settings.from_environment(
        {
            "ABNN_BUNDLE": "b",
            "ABNN_BUNDLE_DIGEST": "d",
            "ABNN_DEVICE": "cpu",
            "ABNN_THREADS": "3",
            "ABNN_MAX_UPLOAD_BYTES": "1000",
            "ABNN_MAX_PIXELS": "2000",
            "ABNN_UPLOAD_SECONDS": "7",
        }
    )
    assert (settings.bundle, settings.digest, settings.device, settings.threads) == (Path("b"), "d", "cpu", 3)
    assert (settings.limits.max_bytes, settings.limits.max_pixels, 0) == (1000, 2000, 0)


def test_videos_have_a_bundle_and_limits_of_their_own():
    settings = Settings.from_environment(
        {
            "ABNN_BUNDLE_DIGEST": "d",
            "ABNN_VIDEO_BUNDLE": "v",
            "ABNN_MAX_VIDEO_BYTES": "1",
            "ABNN_MAX_VIDEO_PIXELS": "2",
            "ABNN_MAX_FRAMES": "3",
            "ABNN_MAX_VIDEO_SECONDS": "4",
            "ABNN_DECODE_SECONDS": "5",
        }
    )
    assert settings.video_limits == VideoLimits(
        max_bytes=1, max_pixels=2, max_frames=3, max_seconds=4, decode_seconds=5
    )
    assert settings.limits.decode_seconds == 5
    assert (settings.for_video().bundle, settings.for_video().digest) == (Path("v"), None)
    with pytest.raises(ConfigError, match="no video bundle is configured; set ABNN_VIDEO_BUNDLE"):
        Settings(bundle=Path("b")).for_video()


def test_the_default_video_bundle_comes_with_the_default_bundle_alone():
    assert Settings.from_environment({}).video_bundle == default_bundle("motions-abnn")
    assert Settings.from_environment({"ABNN_BUNDLE": "mine"}).video_bundle is None


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("ABNN_DEVICE", "gpu", "ABNN_DEVICE is 'gpu', expected one of auto, cpu, openvino, cuda, tensorrt"),
        ("ABNN_THREADS", "0", "ABNN_THREADS is '0', expected a whole number of at least 1"),
        ("ABNN_MAX_PIXELS", "1e6", "ABNN_MAX_PIXELS is '1e6'"),
        ("ABNN_MAX_UPLOAD_BYTES", "-1", "ABNN_MAX_UPLOAD_BYTES is '-1'"),
    ],
)
def test_a_value_that_cannot_be_used_is_named(name, value, message):
    with pytest.raises(ConfigError, match=message):
        Settings.from_environment({name: value})


@pytest.mark.parametrize(("text", "quota"), [("150000 100000", 1.5), ("max 100000", None), ("nonsense", None)])
def test_the_cgroups_cpu_quota_is_read(tmp_path, text, quota):
    (tmp_path / "cpu.max").write_text(text)
    assert _cgroup_quota(tmp_path) == quota


def test_the_older_cgroups_quota_is_read_too(tmp_path):
    (tmp_path / "cpu").mkdir()
    (tmp_path / "cpu" / "cpu.cfs_quota_us").write_text("200000")
    (tmp_path / "cpu" / "cpu.cfs_period_us").write_text("100000")
    assert _cgroup_quota(tmp_path) == 2.0
    assert usable_cores() >= 1


def test_a_precision_that_is_not_known_lists_those_that_are():
    assert Settings.from_environment({"ABNN_PRECISION": "int8"}).precision == "int8"
    with pytest.raises(ConfigError, match="ABNN_PRECISION is 'fp8', expected one of fp32, fp16, bf16, int8"):
        Settings.from_environment({"ABNN_PRECISION": "fp8"})
