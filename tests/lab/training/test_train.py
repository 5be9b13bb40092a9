from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from abnn_serve.errors import ConfigError, DataError, NetworkError, TrainingError
from abnn_serve.lab.networks.zoo import build_network
from abnn_serve.lab.training.loop import _use_bf16
from abnn_serve.lab.training.run import Run
from abnn_serve.lab.training.train import train
from abnn_serve.lab.training.validation import evaluate_clean
from tests.conftest import request_for
from tests.drawing import draw_shape, png, write_parquet


def _weights(run: Run) -> dict[str, torch.Tensor]:
    return torch.load(run.path / "weights.pt", weights_only=True)


def _same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


@pytest.mark.parametrize(("name", "pays"), [("resnet8s-w4", True), ("resnet3d7-w4", False)])
def test_a_cpu_with_bf16_trains_in_it_but_for_clips(name, pays, monkeypatch):
    monkeypatch.setattr("torch.cpu._is_avx512_bf16_supported", lambda: True)
    assert _use_bf16(torch.device("cpu"), build_network(name, 2)) == pays


def test_a_torch_that_cannot_tell_whether_the_cpu_has_bf16_trains_in_float32(monkeypatch):
    monkeypatch.delattr("torch.cpu._is_avx512_bf16_supported")
    assert not _use_bf16(torch.device("cpu"), build_network("resnet8s-w4", 2))


def test_training_in_bf16_learns_as_well(shapes, val_data, monkeypatch, tmp_path):
    monkeypatch.setattr("torch.cpu._is_avx512_bf16_supported", lambda: True)
    run = train(request_for(shapes, epochs=8), tmp_path / "run")
    assert all(weight.dtype == torch.float32 for weight in run.network().parameters())
    assert evaluate_clean(run.network(), val_data)[0] > 0.8


def test_a_run_leaves_weights_metrics_and_a_picture(standard_run):
    assert [row["epoch"] for row in standard_run.metrics] == [1, 2]
    assert {"loss", "accuracy", "val_loss", "val_accuracy", "images_per_second", "seconds", "lr", "hardware"} <= set(
        standard_run.metrics[0]
    )
    assert (standard_run.path / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert [path.name for path in standard_run.checkpoints] == ["epoch-000001.pt", "epoch-000002.pt"]


def test_training_learns_the_shapes(shapes, val_data, tmp_path):
    run = train(request_for(shapes, epochs=12, target="resnet8s-w8"), tmp_path / "run")
    accuracy, _ = evaluate_clean(run.network(), val_data)
    assert accuracy > 0.7
    assert accuracy == run.metrics[-1]["val_accuracy"]


def test_the_substitute_does_not_change_while_the_target_learns(standard_run, abnn_run):
    pretrained, joined = standard_run.network().state_dict(), _weights(abnn_run)
    kept = [key for key in joined if key.startswith("substitute.")]
    convolutions = [key for key in pretrained if pretrained[key].dim() == 4]
    assert kept
    for key in convolutions:
        assert torch.equal(joined[f"substitute.{key}"], pretrained[key])
    maps = [value for key, value in joined.items() if key.endswith(".map")]
    assert maps
    assert all(value.abs().sum() > 0 for value in maps)


def test_the_same_seed_gives_the_same_weights_and_another_seed_does_not(shapes, standard_run, tmp_path):
    again = train(request_for(shapes), tmp_path / "again")
    other = train(request_for(shapes, seed=8), tmp_path / "other")
    assert _same(_weights(again), _weights(standard_run))
    assert not _same(_weights(other), _weights(standard_run))


_KILLED = """
import os, signal, sys
from abnn_serve.lab.training import train
from tests.conftest import request_for

def die(progress):
    if progress.epoch == 2:
        os.kill(os.getpid(), signal.SIGKILL)

train.train(request_for({"train": sys.argv[1], "val": sys.argv[2]}, sys.argv[4], epochs=3,
            **({"substitute": sys.argv[5]} if len(sys.argv) > 5 else {})), sys.argv[3], on_progress=die)
"""


@pytest.mark.parametrize("recipe", ["standard", "abnn"])
def test_a_run_killed_with_sigkill_and_resumed_ends_with_the_same_weights(recipe, shapes, standard_run, tmp_path):
    options = {"substitute": str(standard_run.path)} if recipe == "abnn" else {}
    arguments = [shapes["train"], shapes["val"], str(tmp_path / "killed"), recipe, *options.values()]
    killed = subprocess.run([sys.executable, "-c", _KILLED, *arguments], cwd=Path(__file__).parents[3], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert [path.name for path in Run(tmp_path / "killed").checkpoints] == ["epoch-000001.pt"]
    request = request_for(shapes, recipe, epochs=3, **options)
    resumed = train(request, tmp_path / "killed", resume=True)
    whole = train(request, tmp_path / "whole")
    assert _same(_weights(resumed), _weights(whole))
    timings = ("seconds", "images_per_second")
    assert [[v for k, v in row.items() if k not in timings] for row in resumed.metrics] == [
        [v for k, v in row.items() if k not in timings] for row in whole.metrics
    ]


def test_a_directory_with_a_run_is_not_overwritten(shapes, standard_run):
    with pytest.raises(TrainingError, match=r"already holds a run; add --resume"):
        train(request_for(shapes), standard_run.path)


def test_resuming_with_other_options_names_the_difference(shapes, standard_run):
    with pytest.raises(TrainingError, match="was started with seed = 7, but now seed is 8"):
        train(request_for(shapes, seed=8), standard_run.path, resume=True)


def test_a_loss_that_is_not_finite_stops_with_the_step_and_the_last_good_checkpoint(shapes, tmp_path):
    request = request_for(shapes, epochs=3, target="tests.networks:nan_in_second_epoch")
    with pytest.raises(TrainingError, match=r"not finite at epoch 2, step 3; last good checkpoint: epoch-000001\.pt"):
        train(request, tmp_path / "run")
    assert not (tmp_path / "run" / "weights.pt").exists()


def test_fewer_images_than_one_batch_is_an_error(shapes, tmp_path):
    with pytest.raises(TrainingError, match="the data has 192 images, fewer than one batch of 500; lower --batch-size"):
        train(request_for(shapes, batch_size=500), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_an_unknown_form_is_refused_before_anything_is_written(shapes):
    with pytest.raises(ConfigError, match="form is 'spline', expected one of linear, conditional, adain"):
        request_for(shapes, "abnn", substitute="resnet18", form="spline")


def test_a_record_lost_to_a_kill_after_the_last_checkpoint_is_written_again(shapes, standard_run, tmp_path):
    copied = Path(shutil.copytree(standard_run.path, tmp_path / "copy"))
    (copied / "metrics.jsonl").unlink()
    (copied / "weights.pt").unlink()
    assert train(request_for(shapes), copied, resume=True).metrics == standard_run.metrics


def test_damaged_weights_are_reported_in_one_line(standard_run, tmp_path):
    copied = Path(shutil.copytree(standard_run.path, tmp_path / "copy"))
    (copied / "weights.pt").write_bytes(b"not weights")
    with pytest.raises(TrainingError, match=r"cannot load .*weights\.pt .*; resume the run to write the file again"):
        Run(copied).network()


def test_a_network_that_returns_a_tuple_is_refused_before_training(shapes, tmp_path):
    with pytest.raises(NetworkError, match=r"returned a tuple, expected one tensor of logits \(N, 3\); wrap it"):
        train(request_for(shapes, target="tests.networks:returns_tuple"), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_abnn_without_a_substitute_says_what_is_missing(shapes):
    with pytest.raises(ConfigError, match="recipe 'abnn' needs --substitute"):
        request_for(shapes, "abnn")


def test_standard_with_a_substitute_asks_whether_abnn_was_meant(shapes):
    with pytest.raises(ConfigError, match="takes no --substitute; did you mean 'abnn'"):
        request_for(shapes, substitute="resnet18")


@pytest.mark.parametrize(
    ("recipe", "options", "message"),
    [
        ("abnn-at", {"init": "standard"}, r"'abnn-at' needs --substitute, .*standard is a plain run"),
        ("abnn", {"init": "standard"}, r"'abnn' needs --substitute, "),
        (
            "abnn",
            {"init": "abnn", "rank": 3},
            r"its own target, substitute and plan; leave out --rank",
        ),
        ("abnn", {"init": "abnn", "target": "resnet8s-w8"}, r"substitute and plan; leave out --target"),
        ("standard", {"form": "adain"}, r"'standard' takes no --form; did you mean 'abnn'"),
    ],
)
def test_options_that_a_run_cannot_heed_are_refused(recipe, options, message, shapes, standard_run, abnn_run, tmp_path):
    runs = {"standard": tmp_path / "standard", "abnn": tmp_path / "abnn"}
    for name, run in (("standard", standard_run), ("abnn", abnn_run)):
        shutil.copytree(run.path, runs[name])
    init = str(runs[options["init"]]) if "init" in options else None
    with pytest.raises(ConfigError, match=message):
        train(
            request_for(shapes, recipe, **{"target": None, **options, "init": init} if init else options),
            tmp_path / "run",
        )


def test_an_abnn_run_goes_on_with_its_own_substitute(shapes, abnn_run, tmp_path):
    run = train(request_for(shapes, "abnn", target=None, init=str(abnn_run.path), epochs=1), tmp_path / "run")
    assert run.config.plan == abnn_run.config.plan
    assert run.config.substitute == abnn_run.config.substitute


def test_a_plan_says_what_its_layers_are(shapes, abnn_run):
    with pytest.raises(ConfigError, match="--plan already sets form and rank"):
        request_for(shapes, "abnn", substitute="resnet18", plan=abnn_run.config.plan, form="adain")


def test_an_abnn_run_cannot_be_a_substitute(shapes, abnn_run, tmp_path):
    with pytest.raises(ConfigError, match="is an ABNN run, expected a plain network as the substitute"):
        train(request_for(shapes, "abnn", substitute=str(abnn_run.path)), tmp_path / "run")


def test_an_unfinished_run_has_no_network(standard_run, tmp_path):
    (tmp_path / "run.json").write_bytes((standard_run.path / "run.json").read_bytes())
    with pytest.raises(TrainingError, match=r"has no weights\.pt; finish training with"):
        Run(tmp_path).network()


def test_a_run_file_with_an_unknown_key_is_refused_by_name(standard_run, tmp_path):
    value = json.loads((standard_run.path / "run.json").read_text())
    (tmp_path / "run.json").write_text(json.dumps({**value, "colour": "red"}))
    with pytest.raises(TrainingError, match="unknown key 'colour'"):
        _ = Run(tmp_path).config


def test_recipes_refuse_values_that_make_no_sense(shapes):
    with pytest.raises(ConfigError, match="batch_size is 1, expected 2 to"):
        request_for(shapes, batch_size=1)


def test_training_and_validation_data_must_agree_on_the_classes(shapes, tmp_path):
    rng = np.random.default_rng(0)
    write_parquet(tmp_path / "two.parquet", [png(draw_shape(0, rng))] * 2, [0, 1], classes=("a", "b"))
    with pytest.raises(DataError, match="has different classes than the network: 'a', expected"):
        train(replace(request_for(shapes), val=str(tmp_path / "two.parquet")), tmp_path / "run")
