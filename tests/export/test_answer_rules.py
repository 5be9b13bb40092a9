"""Bundles with an answer rule, from export to prediction."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest

from abnn_serve.answer import Masks, Noise
from abnn_serve.bundle.store import load_bundle, write_bundle
from abnn_serve.errors import BundleIntegrityError, ConfigError, ExportError
from abnn_serve.export.bundle import export_bundle
from abnn_serve.lab.training.views import fill_of
from abnn_serve.runtime.prediction_json import prediction_json
from abnn_serve.runtime.predictor import Predictor
from abnn_serve.runtime.session import Session
from abnn_serve.runtime.verify import check_graphs


@pytest.fixture(scope="module")
def masks(masks_bundle):
    return Predictor.open(masks_bundle.path, device="cpu", threads=1)


def _with_manifest(bundle, path, **changes):
    files = {name: bundle.read(name) for name in bundle.manifest.files}
    return write_bundle(path, files, lambda entries: replace(bundle.manifest, files=entries, **changes))


def test_the_rule_is_part_of_the_bundle_and_of_its_identity(masks_bundle, standard_run, tmp_path):
    manifest = masks_bundle.manifest
    assert manifest.format_version == 3
    fill = tuple(round(255 * value) for value in fill_of(standard_run.network()).tolist())
    assert manifest.answer.masks == Masks(patch=(5, 5), k=3, fill=fill)
    other = replace(manifest.answer, masks=replace(manifest.answer.masks, k=4))
    assert _with_manifest(masks_bundle, tmp_path / "other", answer=other).digest != masks_bundle.digest
    plain = _with_manifest(masks_bundle, tmp_path / "plain", answer=None, format_version=1)
    assert b'"answer"' not in (plain.path / "bundle.json").read_bytes()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format_version": 1}, "format_version is 1, expected 3 for an answer rule"),
        ({"answer": None}, "format_version is 3, expected 1 for images"),
        ({"precisions": ("fp32", "bf16")}, "expected only fp32 in a bundle with an answer rule"),
    ],
)
def test_a_manifest_whose_rule_and_version_do_not_agree_is_refused(masks_bundle, tmp_path, changes, message):
    with pytest.raises(ConfigError, match=message):
        _with_manifest(masks_bundle, tmp_path / "bad", **changes)


def test_predictions_are_by_the_rule_and_the_card_s_clean_accuracy_is_too(masks, masks_bundle, val_data):
    predictions = masks.predict(val_data.images, certify=True)
    correct = [p.top[0].index == label for p, label in zip(predictions, val_data.labels, strict=True)]
    assert masks_bundle.card.clean.correct == sum(correct)
    plain = masks.predict(val_data.images)
    assert [p.top for p in plain] == [p.top for p in predictions]
    assert {p.certificate for p in plain} == {None}
    for prediction, image in zip(predictions[:8], val_data.images, strict=False):
        hidden = image.copy()
        view = prediction.views[4]
        hidden[view.top : view.top + view.height, view.left : view.left + view.width] = (
            masks_bundle.manifest.answer.masks.fill
        )
        assert view.label == masks_bundle.labels.names[int(masks.session.run(hidden[None]).argmax())]
    shown = prediction_json(predictions[0])["certificate"]
    assert shown.keys() == {"kind", "certified", "passes", "confidence", "patch", "views"}
    assert (shown["passes"], shown["patch"], len(shown["views"])) == (45, [5, 5], 9)


def test_a_bundle_without_a_rule_certifies_nothing(predictor, val_data):
    with pytest.raises(ConfigError, match="proves nothing of its answers"):
        predictor.predict(val_data.images[:1], certify=True)


def test_a_graph_for_noise_takes_float32_and_gives_the_logits_of_the_uint8_graph(noise_bundle, masks, val_data):
    graph = onnx.load_from_string(noise_bundle.read("model.onnx")).graph
    assert graph.input[0].type.tensor_type.elem_type == onnx.TensorProto.FLOAT
    assert "Cast" not in {node.op_type for node in graph.node}
    check_graphs(noise_bundle)
    session = Session(noise_bundle, "cpu", 1)
    logits = masks.session.run(val_data.images)
    assert np.abs(session.run(val_data.images) - logits).max() <= 1e-4
    assert np.abs(session.run(val_data.images.astype(np.float32)) - logits).max() <= 1e-4


def test_noise_is_drawn_from_the_key_and_an_answer_is_repeatable(noise_bundle, val_data):
    session = Session(noise_bundle, "cpu", 1)
    one, other = (Predictor(session, noise_key=key) for key in (b"one", b"other"))
    shares = [np.stack([p.logits for p in q.predict(val_data.images[:16])]) for q in (one, one, other)]
    assert (shares[0] == shares[1]).all()
    assert (shares[0] != shares[2]).any()
    shown = prediction_json(one.predict(val_data.images[:1], certify=True)[0])["certificate"]
    assert shown.keys() == {"kind", "certified", "passes", "confidence", "abstained", "radius", "sigma"}
    assert shown["passes"] == 30


def test_a_uint8_graph_with_noise_is_refused(masks_bundle, tmp_path):
    answer = replace(masks_bundle.manifest.answer, masks=None, noise=Noise(sigma=0.25))
    bundle = _with_manifest(masks_bundle, tmp_path / "uint8", answer=answer)
    with pytest.raises(BundleIntegrityError, match=r"inputs image uint8 .*, expected image float32 .*export the"):
        Session(bundle, "cpu")


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"answer": "masks:patch=40"}, ConfigError, "the patch's height is 40 pixels, expected 1 to the image's 32"),
        ({"answer": "noise:sigma=0"}, ConfigError, "sigma is 0"),
        ({"answer": "masks:patch=5", "precisions": ("fp32", "int8")}, ExportError, "is served in fp32 only"),
    ],
)
def test_a_rule_that_cannot_be_exported_is_refused_before_any_work(
    standard_run, val_data, tmp_path, options, error, message
):
    with pytest.raises(error, match=message):
        export_bundle(standard_run, tmp_path / "bundle", val_data, **options)
    assert not (tmp_path / "bundle").exists()


def test_a_video_is_answered_clip_by_clip_and_certified_as_a_whole(masks_clips_bundle, videos):
    predictor = Predictor.open(masks_clips_bundle.path, device="cpu", threads=1)
    file = min(Path(videos["val"]).rglob("*.avi"))
    video = predictor.decode_video(file.read_bytes())
    found = predictor.predict_video(video, certify=True)
    assert load_bundle(masks_clips_bundle.path).manifest.format_version == 3
    assert len(found.clips) == len(video.pixels)
    labels = {clip.top[0].index for clip in found.clips} | {found.overall.top[0].index}
    certified = all(clip.certificate.certified for clip in found.clips) and len(labels) == 1
    assert found.overall.certificate.certified == certified
    assert found.overall.certificate.passes == sum(clip.certificate.passes for clip in found.clips)
