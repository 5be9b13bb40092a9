from __future__ import annotations

import json
import shutil

import numpy as np
import pytest

import abnn_serve.evaluation.certificates as certificates_module
from abnn_serve.bundle.store import load_bundle
from abnn_serve.card import Certification
from abnn_serve.cli.certify import _check_measured, _check_reached, _parse_minimum, print_certification
from abnn_serve.codec import from_json
from abnn_serve.errors import ConfigError
from abnn_serve.evaluation.certify import RADII, certify
from abnn_serve.runtime.predictor import Predictor


@pytest.fixture
def masks_copy(masks_bundle, tmp_path):
    return shutil.copytree(masks_bundle.path, tmp_path / "masks")


def test_a_bundle_gets_the_certified_curve_on_its_card(masks_bundle, masks_copy, shapes, val_data, tmp_path):
    certification = certify(masks_copy, shapes["val"], patches=["3", "10%"], out=tmp_path / "out")
    bundle = load_bundle(masks_copy)
    assert bundle.card.certification == certification
    assert bundle.digest != masks_bundle.digest
    written = json.loads((tmp_path / "out" / "certification.json").read_text())
    assert from_json(Certification, written, "certification", ConfigError) == certification
    assert (tmp_path / "out" / "certified.png").stat().st_size > 10_000
    points = {point.patch: point for point in certification.points}
    assert list(points) == [(3, 3), (5, 5), (10, 10)]
    predictions = Predictor.open(masks_bundle.path, device="cpu", threads=1).predict(val_data.images, certify=True)
    correct = np.array([p.top[0].index for p in predictions]) == val_data.labels
    certified = np.array([p.certificate.certified for p in predictions])
    assert points[5, 5].clean.correct == correct.sum() == bundle.card.clean.correct
    assert points[5, 5].certified.correct == (correct & certified).sum()
    assert certification.uncertified == (~certified).sum()
    assert points[3, 3].certified.correct >= points[10, 10].certified.correct
    assert 9 <= certification.answer_passes <= certification.certificate_passes <= 45
    assert 0 < certification.answer_seconds < certification.certificate_seconds


def test_an_interrupted_call_resumes_and_several_processes_give_the_same(masks_copy, shapes, tmp_path, monkeypatch):
    seen: list[tuple[int, int]] = []

    def stop(done: int, total: int) -> None:
        seen.append((done, total))
        if done == 40:
            raise KeyboardInterrupt

    options = {"patches": ["3"], "images": 50}
    with pytest.raises(KeyboardInterrupt):
        certify(masks_copy, shapes["val"], out=tmp_path / "out", on_progress=stop, **options)
    assert seen == [(0, 100), (20, 100), (40, 100)]
    seen.clear()
    resumed = certify(
        masks_copy, shapes["val"], out=tmp_path / "out", on_progress=lambda *at: seen.append(at), **options
    )
    assert seen[0] == (40, 100)
    monkeypatch.setattr(certificates_module, "_BATCH", 30)
    other = certify(masks_copy, shapes["val"], out=tmp_path / "other", jobs=2, **options)
    assert (other.points, other.uncertified) == (resumed.points, resumed.uncertified)


def test_a_run_is_certified_under_noise_against_the_radius(standard_run, shapes, tmp_path):
    certification = certify(standard_run.path, shapes["val"], sigma=0.1, copies=20, images=12, out=tmp_path / "out")
    assert [point.radius for point in certification.points] == [radius for radius in RADII if radius <= 0.4]
    shares = [point.certified.value for point in certification.points]
    assert shares == sorted(shares, reverse=True)
    assert certification.certificate_passes == 120
    assert certification.confidence == 0.999
    assert 0 <= certification.uncertified <= 12


@pytest.mark.slow
def test_any_number_of_processes_keeps_the_same_certificates(standard_run, shapes, tmp_path):
    kept = []
    for jobs in (1, 2):
        out = tmp_path / f"{jobs}"
        certify(standard_run.path, shapes["val"], sigma=0.1, copies=20, images=50, jobs=jobs, out=out)
        kept.append({file.name: file.read_bytes() for file in (out / "certificates").iterdir()})
    assert len(kept[0]) == 3
    assert kept[0] == kept[1]


@pytest.mark.parametrize(
    ("subject", "options", "message"),
    [
        (
            "bundle",
            {},
            "has no answer rule, so none of its answers has a proof; export it with --answer masks:patch=5,k=3",
        ),
        ("masks_bundle", {"sigma": 0.2}, "--patch is for masks, --sigma for a run"),
        ("masks_bundle", {"patches": ["99"]}, "the patch's height is 99 pixels, expected 1 to the image's 32"),
        ("noise_bundle", {"patches": ["5"]}, "--patch is for masks, --sigma for a run"),
        ("standard_run", {"sigma": 0.2, "patches": ["5"]}, "--patch and --sigma are two rules, expected one of them"),
        ("standard_run", {"jobs": 0}, "jobs is 0, expected at least 1"),
        ("standard_run", {"sigma": 0.2, "copies": 5}, "fewer than 10 copies never give a certificate"),
    ],
)
def test_what_cannot_be_certified_is_refused_in_one_line(request, shapes, tmp_path, subject, options, message):
    with pytest.raises(ConfigError, match=message) as error:
        certify(request.getfixturevalue(subject).path, shapes["val"], out=tmp_path / "out", **options)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "out").exists()


def test_minimums_name_what_was_measured(masks_copy, shapes, tmp_path, capsys):
    certification = certify(masks_copy, shapes["val"], patches=["3"], images=20, out=tmp_path / "out")
    print_certification(certification)
    assert "patch 5 x 5" in capsys.readouterr().out
    _check_reached([_parse_minimum("certified-patch-5>=0"), _parse_minimum("clean >= 0")], certification)
    with pytest.raises(ConfigError, match=r"certified-patch-5 is 0.*, --require asks for at least 1"):
        _check_reached([_parse_minimum("certified-patch-5>=1.0")], certification)
    with pytest.raises(ConfigError, match="--require is 'patch>=1', expected certified-patch-SIDE>=SHARE"):
        _parse_minimum("patch>=1")


def test_a_minimum_of_a_figure_that_is_not_measured_is_refused_before_anything_is_computed(
    masks_copy, shapes, tmp_path
):
    def on_start(budgets: list) -> None:
        _check_measured([_parse_minimum("certified-patch-3x5>=0"), _parse_minimum("clean>=0")], budgets)
        _check_measured([_parse_minimum("certified-patch-7>=0.1")], budgets)

    with pytest.raises(ConfigError, match=r"certified-patch-7', .* expected one of clean, .*, certified-patch-3x5$"):
        certify(masks_copy, shapes["val"], patches=["3x5"], out=tmp_path / "out", on_start=on_start)
    assert not (tmp_path / "out").exists()
