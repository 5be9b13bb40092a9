from __future__ import annotations

import json
import shutil

import numpy as np
import pytest

from abnn_serve import evaluate
from abnn_serve.bundle.store import load_bundle
from abnn_serve.card import RobustnessCard
from abnn_serve.codec import from_json
from abnn_serve.errors import ConfigError, DataError
from abnn_serve.evaluation.opening import output_folder
from abnn_serve.evaluation.outcomes import Progress, Trial
from tests.drawing import draw_shape, png, write_parquet


def _card_of(folder) -> RobustnessCard:
    return from_json(RobustnessCard, json.loads((folder / "card.json").read_text()), "card", ConfigError)


def test_a_run_gets_its_card_in_the_folder(abnn_run, standard_run, shapes, tmp_path):
    trials: list[Trial] = []
    progress: list[Progress] = []
    card = evaluate(
        abnn_run.path,
        shapes["val"],
        twin=standard_run.path,
        attacks=["fgsm"],
        images=12,
        curve_images=2,
        eps=0.05,
        out=tmp_path / "out",
        on_start=trials.extend,
        on_progress=progress.append,
    )
    assert card == _card_of(tmp_path / "out")
    assert [(row.threat_model, row.accuracy.n) for row in card.attacks] == [
        ("whitebox", 12),
        ("graybox", 12),
        ("transfer", 12),
    ]
    assert {row.eps for row in card.attacks} == {0.05}
    assert [curve.parameter for curve in card.curves] == ["eps", "steps"]
    names = {"card.json", "curves.png", "samples.png", "flags.npz", "batches"}
    assert {path.name for path in (tmp_path / "out").iterdir()} == names
    assert [at.trial for at in progress] == trials
    assert [(at.number, at.trials, at.done, at.samples) for at in progress] == [(i, 3, 12, 12) for i in (1, 2, 3)]
    assert progress[0].accuracy == card.attacks[0].accuracy.value


def test_a_bundle_gets_its_card_inside_too(bundle, abnn_run, shapes, tmp_path):
    copy = tmp_path / "shapes"
    shutil.copytree(bundle.path, copy)
    options = {"attacks": ["square"], "quick": True, "images": 8, "out": tmp_path / "out"}
    card = evaluate(copy, shapes["val"], run=abnn_run.path, **options)
    assert load_bundle(copy).card == card == _card_of(tmp_path / "out")
    assert {row.threat_model for row in card.attacks} == {"whitebox", "graybox", "blackbox", "artifact"}
    assert card.clean == bundle.card.clean
    assert [attack.attack for attack in card.drift.attacks] == ["Square-100"]
    assert not card.curves


def test_a_card_says_whether_an_attack_had_the_gradients(older_bundle, abnn_run, shapes, tmp_path):
    options = {"attacks": ["square"], "queries": 5, "quick": True, "images": 4, "out": tmp_path / "out"}
    said = []
    for run in (None, abnn_run.path):
        copy = shutil.copytree(older_bundle.path, tmp_path / f"copy-{len(said)}")
        card = evaluate(copy, shapes["val"], run=run, **options)
        said.append(any("had the gradients" in limit for limit in card.limits))
    assert said == [True, False]


def test_training_data_and_other_data_are_refused(bundle, older_bundle, abnn_run, shapes, tmp_path):
    with pytest.raises(ConfigError, match="is the network's training data; give held-out data"):
        evaluate(abnn_run.path, shapes["train"], quick=True, out=tmp_path / "out")
    with pytest.raises(ConfigError, match="is the network's training data; give held-out data"):
        evaluate(bundle.path, shapes["train"], quick=True, out=tmp_path / "out")
    with pytest.raises(ConfigError, match=r"the card of .* was measured on val.parquet, and .* is other data"):
        evaluate(older_bundle.path, shapes["train"], quick=True, out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_data_with_other_classes_is_refused(abnn_run, tmp_path):
    images = [png(draw_shape(0, np.random.default_rng(0)))] * 2
    write_parquet(tmp_path / "other.parquet", images, [0, 1], classes=("dot", "line"))
    with pytest.raises(DataError, match="has different classes than the network"):
        evaluate(abnn_run.path, str(tmp_path / "other.parquet"), quick=True, out=tmp_path / "out")


def test_one_image_is_too_few(abnn_run, shapes):
    with pytest.raises(ConfigError, match="images is 1, expected at least 2"):
        evaluate(abnn_run.path, shapes["val"], images=1)


def test_results_go_beside_the_run_or_into_the_working_directory(bundle, abnn_run):
    assert output_folder(abnn_run.path) == abnn_run.path / "evaluation"
    assert output_folder(bundle.path, abnn_run.path) == abnn_run.path / "evaluation"
    assert str(output_folder(bundle.path)) == str(output_folder(bundle.path, bundle.path)) == "shapes-evaluation"
