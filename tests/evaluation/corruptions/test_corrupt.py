from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from abnn_serve.errors import ConfigError
from abnn_serve.evaluation.corruptions.blur import _disk
from abnn_serve.evaluation.corruptions.constants import CORRUPTIONS, SEVERITIES, constants_for, strength
from abnn_serve.evaluation.corruptions.corrupt import corrupt
from abnn_serve.evaluation.corruptions.resample import clipped_zoom, gaussian_blur, motion_blur, sample_at


def _photo(size: int, count: int = 1) -> np.ndarray:
    """Smooth colours with an edge, uint8 (count, size, size, 3)."""
    noise = np.random.default_rng(0).integers(0, 256, (count, 5, 5, 3), dtype=np.uint8)
    images = [
        np.asarray(Image.fromarray(image).resize((size, size), Image.Resampling.BICUBIC)).copy() for image in noise
    ]
    for image in images:
        image[:, size // 2] = 255
    return np.stack(images)


def _change(images: np.ndarray, corrupted: np.ndarray) -> float:
    return float(np.sqrt(((corrupted.astype(float) - images) ** 2).mean()))


@pytest.mark.parametrize("size", [32, 48])
@pytest.mark.parametrize("name", CORRUPTIONS)
def test_each_corruption_changes_images_and_keeps_shape_and_dtype(name, size):
    images = _photo(size, 2)
    for severity in (1, 5):
        corrupted = corrupt(images, name, severity)
        assert (corrupted.shape, corrupted.dtype) == (images.shape, np.uint8)
        assert _change(images, corrupted) > 1


@pytest.mark.parametrize(
    "name", ["gaussian noise", "shot noise", "impulse noise", "defocus blur", "brightness", "contrast"]
)
def test_a_higher_severity_changes_more(name):
    images = _photo(32, 4)
    changes = [_change(images, corrupt(images, name, severity)) for severity in SEVERITIES]
    assert changes == sorted(changes)


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_an_image_is_corrupted_in_the_same_way_alone_and_among_others(name):
    images = _photo(32, 3)
    together = corrupt(images, name, 4, seed=5)
    alone = corrupt(images[2:], name, 4, seed=5, start=2)
    np.testing.assert_array_equal(together[2], alone[0])


def test_another_seed_or_position_draws_other_noise():
    images = np.repeat(_photo(32), 2, axis=0)
    first = corrupt(images, "gaussian noise", 3)
    assert _change(first[0], first[1]) > 5
    assert _change(first, corrupt(images, "gaussian noise", 3, seed=1)) > 5


@pytest.mark.parametrize("name", ["gaussian noise", "glass blur", "snow", "elastic transform"])
def test_the_frames_of_a_clip_get_the_same_corruption(name):
    clip = np.repeat(_photo(16)[:, None], 3, axis=1)
    corrupted = corrupt(clip, name, 5)
    assert corrupted.shape == clip.shape
    np.testing.assert_array_equal(corrupted[:, 0], corrupted[:, 2])


def test_noise_has_the_paper_s_strength():
    grey = np.full((4, 64, 64, 3), 128, np.uint8)
    small = grey[:, :32, :32]
    assert corrupt(small, "gaussian noise", 5).std() / 255 == pytest.approx(0.10, rel=0.05)
    assert corrupt(grey, "gaussian noise", 3).std() / 255 == pytest.approx(0.18, rel=0.05)
    assert corrupt(small, "shot noise", 5).std() / 255 == pytest.approx((0.5 / 50) ** 0.5, rel=0.05)
    hit = corrupt(grey, "impulse noise", 5)
    assert np.isin(hit, [0, 255]).mean() == pytest.approx(0.27, abs=0.01)
    assert (hit == 255).mean() == pytest.approx((hit == 0).mean(), abs=0.01)


def test_contrast_and_brightness_are_the_paper_s_formulas():
    images = _photo(32)
    mean = images.mean(axis=(1, 2), keepdims=True)
    np.testing.assert_allclose(corrupt(images, "contrast", 2), (images - mean) * 0.5 + mean, atol=0.51)
    pixel = np.full((1, 32, 32, 3), (100, 50, 0), np.uint8)
    value = 100 / 255 + 0.3
    np.testing.assert_allclose(corrupt(pixel, "brightness", 5)[0, 0, 0] / 255, [value, value / 2, 0], atol=1 / 255)


def test_blurs_keep_a_constant_image_and_defocus_is_a_disk():
    grey = np.full((1, 32, 32, 3), 77, np.uint8)
    for name in ("defocus blur", "motion blur", "zoom blur", "pixelate", "elastic transform"):
        np.testing.assert_array_equal(corrupt(grey, name, 5), grey)
    disk = _disk(10, 0.5)
    assert disk.sum() == pytest.approx(1)
    assert (disk > disk.max() / 2).sum() == pytest.approx(np.pi * 100, rel=0.02)


def test_motion_blur_is_half_a_gaussian_along_its_angle():
    point = np.zeros((21, 21, 1), np.float32)
    point[10, 10] = 1
    line = motion_blur(point, 3, 2, 0)[..., 0]
    weights = np.exp(-0.5 * (np.arange(7) / 2) ** 2)
    np.testing.assert_allclose(line[10, 4:11], weights[::-1] / weights.sum(), rtol=1e-5)
    assert line[10].sum() == pytest.approx(1)
    assert motion_blur(point, 3, 2, -90)[:, 10].sum() == pytest.approx(1)


def test_gaussian_blur_of_a_point_has_its_sigma_and_mirrors_or_repeats_the_border():
    point = np.zeros((31, 31, 1), np.float32)
    point[15, 15] = 1
    blurred = gaussian_blur(point, 2.0)[..., 0]
    rows = blurred.sum(axis=1)
    assert blurred.sum() == pytest.approx(1, abs=1e-3)
    assert ((np.arange(31) - 15) ** 2 * rows).sum() ** 0.5 == pytest.approx(2.0, rel=0.02)
    ramp = np.arange(4, dtype=np.float32).reshape(4, 1, 1)
    assert gaussian_blur(ramp, 100.0, reflect=True) == pytest.approx(1.5, abs=0.05)
    assert gaussian_blur(ramp, 0.0) == pytest.approx(ramp)


def test_zooming_and_sampling_agree_with_the_image_where_they_do_not_move_it():
    image = _photo(32).astype(np.float32)
    np.testing.assert_allclose(clipped_zoom(image, 1.0), image)
    rows, columns = np.mgrid[:32, :32].astype(float)
    np.testing.assert_allclose(sample_at(image[0], rows, columns), image[0])
    np.testing.assert_allclose(sample_at(image[0], rows, columns + 1)[:, :31], image[0][:, 1:])
    np.testing.assert_allclose(sample_at(image[0], rows, -columns), image[0], err_msg="the border is mirrored")


def test_constants_are_those_of_the_data_set_that_fits_the_size():
    assert [constants_for(*size) for size in ((32, 32), (16, 16), (33, 32), (224, 224))] == [
        "CIFAR-10-C", "CIFAR-10-C", "ImageNet-C", "ImageNet-C",
    ]  # fmt: skip
    assert strength("JPEG compression", 5, "CIFAR-10-C") == (40,)
    assert strength("JPEG compression", 5, "ImageNet-C") == (7,)


def test_unknown_names_and_severities_are_refused():
    with pytest.raises(ConfigError, match="no corruption named 'rain', expected one of gaussian noise"):
        corrupt(_photo(32), "rain", 1)
    with pytest.raises(ConfigError, match="severity is 6, expected 1 to 5"):
        corrupt(_photo(32), "fog", 6)
