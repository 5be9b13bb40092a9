"""From drawn videos to a bundle that classifies videos: trained, exported, predicted, evaluated."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from abnn_serve.bundle.store import load_bundle
from abnn_serve.errors import BundleVersionError, ConfigError, ExportError, InputShapeError, UnsupportedFormatError
from abnn_serve.evaluation.bundle_checks import with_attacked_drift, with_robust_accuracy
from abnn_serve.evaluation.report import draw_report, fill_card, measure
from abnn_serve.evaluation.subject import open_subject
from abnn_serve.evaluation.suites import choose_trials
from abnn_serve.evaluation.trials import run_trials
from abnn_serve.export import bundle as export_module
from abnn_serve.export.bundle import export_bundle
from abnn_serve.export.graph import export_stages
from abnn_serve.export.passes import PASSES
from abnn_serve.lab.abnn.network import PixelNetwork, ServedNetwork
from abnn_serve.lab.abnn.plan import plan_pairs
from abnn_serve.lab.abnn.surgery import apply_plan
from abnn_serve.lab.data.load import load_data
from abnn_serve.lab.networks.zoo import build_network
from abnn_serve.lab.training.train import train
from abnn_serve.runtime.engine import open_graph
from abnn_serve.runtime.predictor import Predictor
from tests.conftest import CLIPS, clip_request
from tests.drawing import encode_video, passing_square, png
from tests.export.families import as_stage


@pytest.fixture(scope="module")
def video_predictor(video_bundle) -> Predictor:
    return Predictor.open(video_bundle.path, device="cpu", threads=1)


def _video() -> bytes:
    frames = passing_square(np.random.default_rng(3), rightwards=True, count=20)
    return encode_video(frames, container="avi", codec="mpeg4")


def test_the_passes_have_rewritten_every_adaptive_layer_of_a_video_bundle(video_bundle):
    graph = onnx.load_from_string(video_bundle.read("model.onnx")).graph
    kinds = [node.op_type for node in graph.node]
    assert kinds.count("InstanceNormalization") == len(video_bundle.manifest.pairs) == 7
    assert "Pow" not in kinds  # variances are taken in one pass
    assert [(node.name, len(node.type.tensor_type.shape.dim)) for node in graph.input] == [("video", 5)]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("framewise", "form", "kind"),
    [(False, "linear", "InstanceNormalization"), (True, "linear", "InstanceNormalization"), (False, "conditional", "")],
)
def test_every_graph_pass_applies_to_clips_and_keeps_the_logits(framewise, form, kind):
    target, substitute = (PixelNetwork(build_network("resnet3d7-w4", 5)) for _ in range(2))
    if framewise:
        substitute = PixelNetwork(build_network("resnet8s-w4", 5))
    example = torch.rand(2, 3, 4, 16, 16)
    plan = plan_pairs(target, substitute, example, framewise=framewise, form=form)
    network = apply_plan(target, substitute, plan).eval()
    for layer in network.adaptive_layers:
        nn.init.normal_(layer.map, std=0.1)
    stages = export_stages(network, CLIPS)
    assert [stage.name for stage in stages[1:]] == list(PASSES)
    kinds = [node.op_type for node in onnx.load_from_string(stages[-1].model).graph.node]
    normalising = [each for each in kinds if each.endswith("Normalization")]
    assert normalising == [kind] * (len(network.adaptive_layers) if kind else 0)
    assert framewise or stages[-1].nodes < stages[0].nodes
    clips = np.random.default_rng(0).integers(0, 256, (3, 4, 16, 16, 3), np.uint8)
    expected = ServedNetwork(network).eval()(torch.from_numpy(clips)).detach().numpy()
    for stage in stages:
        found = open_graph(stage.model, 1).run(None, {"video": clips})[0]
        assert np.abs(found - expected).max() < 1e-4, stage.name


def test_a_video_bundle_says_what_it_takes(video_bundle):
    assert video_bundle.manifest.format_version == 2
    assert video_bundle.manifest.input == CLIPS
    assert video_bundle.card.clean.n == 12  # videos, not clips
    assert load_bundle(video_bundle.path).digest == video_bundle.digest


def test_scores_are_the_mean_of_the_clips_softmax(video_predictor):
    video = video_predictor.decode_video(_video())
    assert video.pixels.shape == (2, 4, 16, 16, 3)
    found = video_predictor.predict_video(video, top_k=2)
    mean = np.mean([[{s.index: s.probability for s in clip.top}[i] for i in range(2)] for clip in found.clips], axis=0)
    assert {s.index: s.probability for s in found.overall.top} == pytest.approx(dict(enumerate(mean)), abs=1e-6)


def test_clips_are_classified_each_as_if_it_were_alone(video_predictor, videos):
    clips = load_data(videos["val"], CLIPS).images
    whole = video_predictor.session.run(clips)
    alone = np.concatenate([video_predictor.session.run(clip[None]) for clip in clips[::-1]])[::-1]
    assert np.abs(whole - alone).max() < 1e-5


def test_pictures_and_videos_are_not_taken_for_each_other(video_predictor, predictor):
    from PIL import Image

    picture = png(Image.new("RGB", (32, 32)))
    with pytest.raises(UnsupportedFormatError, match="not a video"):
        video_predictor.decode_video(picture)
    with pytest.raises(UnsupportedFormatError, match="clips classifies videos, not images"):
        video_predictor.decode(picture)
    with pytest.raises(UnsupportedFormatError, match="not an image"):
        predictor.decode(_video())
    with pytest.raises(UnsupportedFormatError, match="classifies images"):
        predictor.decode_video(_video())
    with pytest.raises(InputShapeError, match=r"expected uint8 \(N, 4, 16, 16, 3\)"):
        video_predictor.predict(np.zeros((1, 16, 16, 3), np.uint8))


def test_int8_is_refused_for_clips(abnn_clip_run, videos, tmp_path):
    data = load_data(videos["val"], CLIPS)
    with pytest.raises(ExportError, match="int8 is for images"):
        export_bundle(abnn_clip_run, tmp_path / "b", data, calibration=data)


def test_a_variant_in_fp16_is_measured_by_video_and_attacked(
    video_bundle, abnn_clip_run, videos, tmp_path, monkeypatch
):
    data = load_data(videos["val"], CLIPS)
    stages = [as_stage("as served", video_bundle.read("model.onnx"))]
    monkeypatch.setattr(export_module, "export_stages", lambda network, spec, pixel_type: stages)
    bundle = export_bundle(abnn_clip_run, tmp_path / "half", data, precisions=("fp32", "fp16"))
    (variant,) = bundle.card.variants
    assert variant.clean.n == bundle.card.clean.n == 12
    opened = open_subject(bundle.path, run=abnn_clip_run.path)
    trials = choose_trials(opened.subject, attacks=["fgsm"], threats=["whitebox"])
    evaluation = run_trials(opened.subject, data.spread(4), trials)
    assert with_robust_accuracy(bundle, evaluation)[0].robust.n == 4
    before = replace(bundle, card=replace(bundle.card, variants=(replace(variant, robust=variant.clean),)))
    assert with_robust_accuracy(before, replace(evaluation, outcomes=()))[0].robust is None


def test_an_older_reader_would_say_that_the_bundle_is_newer(video_bundle, monkeypatch):
    from abnn_serve.bundle import manifest

    monkeypatch.setattr(manifest, "FORMAT_VERSION", 1)
    with pytest.raises(BundleVersionError, match="upgrade abnn_serve"):
        load_bundle(video_bundle.path)


def test_every_attack_is_measured_on_clips_and_the_card_has_its_row(
    video_bundle, abnn_clip_run, clip_run, videos, tmp_path
):
    opened = open_subject(video_bundle.path, run=abnn_clip_run.path, twin=clip_run.path)
    data = load_data(videos["val"], opened.input)
    trials = choose_trials(opened.subject, attacks=["fgsm", "pgd", "roa", "roa-moving"], threats=["whitebox"])
    trials += choose_trials(opened.subject, threats=["graybox", "transfer", "blackbox"], quick=True)
    report = measure(opened.subject, data.spread(4), trials, curve_images=0)
    card = fill_card(opened.card(data), report, data)
    assert {row.attack for row in card.attacks} >= {"FGSM", "PGD-20", "ROA-10% t=5", "ROA-10% t=5 moving", "Square-100"}
    assert "4 of 24 clips: at most one per video" in card.limits[0]
    assert not [check for check in card.sanity if check.raised and "finite differences" in check.check]
    drift = with_attacked_drift(opened.bundle, report.evaluation)
    assert [row.attack for row in drift.attacks] == ["FGSM", "PGD-20", "ROA-10% t=5", "ROA-10% t=5 moving"]
    draw_report(opened.subject, report, tmp_path)
    assert (tmp_path / "samples.png").stat().st_size > 10_000


@pytest.mark.parametrize(
    "recipe", ["oudefend", *(pytest.param(name, marks=pytest.mark.slow) for name in ("pgd-at", "bn-at-scratch"))]
)
def test_recipes_that_attack_run_on_clips(recipe, videos, tmp_path):
    run = train(_one_epoch(videos, recipe), tmp_path)
    assert run.metrics[-1]["val_pgd_accuracy"] is not None
    assert run.config.target.name == ("oudefend:resnet3d7-w4" if recipe == "oudefend" else "resnet3d7-w4")
    assert run.network()(torch.rand(1, 3, 4, 16, 16)).shape == (1, 2)


def test_oudefend_does_not_start_from_a_run_without_its_block(clip_run, videos, tmp_path):
    request = clip_request(videos, "oudefend", target=None, init=str(clip_run.path))
    with pytest.raises(ConfigError, match="has no OUDefend block; start the recipe 'oudefend' with --target"):
        train(request, tmp_path / "run")


def _one_epoch(videos, recipe):
    request = clip_request(videos, recipe, epochs=1)
    return replace(request, recipe=replace(request.recipe, attack_steps=1))
