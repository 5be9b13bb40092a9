from __future__ import annotations

import shutil
from dataclasses import replace

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save

from abnn_serve.bundle.store import load_bundle, write_bundle
from abnn_serve.errors import BundleIntegrityError, TrainingError
from abnn_serve.lab.abnn.network import ServedNetwork, torch_logits
from abnn_serve.lab.training.pretrained import load_substitute
from abnn_serve.lab.training.train import train
from abnn_serve.lab.training.weights_file import MAX_BYTES, WEIGHTS_FILE, open_run, pack_weights
from abnn_serve.runtime.predictor import Predictor
from abnn_serve.runtime.settings import default_bundle
from tests.conftest import SPEC, request_for


def assert_equal_up_to_rounding(ours, theirs):
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        torch.testing.assert_close(value, theirs[name], rtol=2e-6, atol=0.0)


def test_a_bundle_keeps_the_run_that_it_was_exported_from(bundle, abnn_run):
    kept = open_run(bundle.path)
    assert kept.config == abnn_run.config
    assert kept.total_seconds == abnn_run.total_seconds
    assert_equal_up_to_rounding(kept.network().state_dict(), abnn_run.network().state_dict())
    assert open_run(abnn_run.path).config == abnn_run.config


def test_training_goes_on_from_a_bundle(shapes, bundle, abnn_run, tmp_path):
    runs = [
        train(request_for(shapes, "abnn", target=None, epochs=1, init=str(init.path)), tmp_path / init.path.name)
        for init in (bundle, abnn_run)
    ]
    from_bundle, from_run = (run.network().state_dict() for run in runs)
    for name, value in from_bundle.items():
        torch.testing.assert_close(value, from_run[name], rtol=1e-3, atol=1e-4)
    assert runs[0].config.init_source == bundle.path.name
    assert runs[0].config.init_seconds == abnn_run.total_seconds


def test_the_substitute_in_a_bundle_drives_another_target(bundle, standard_run, shapes, tmp_path):
    config, substitute = load_substitute(str(bundle.path), SPEC)
    assert config == standard_run.config.target
    assert_equal_up_to_rounding(substitute.state_dict(), standard_run.network().state_dict())
    run = train(request_for(shapes, "abnn", substitute=str(bundle.path), epochs=1), tmp_path / "run")
    assert run.config.substitute_source == bundle.path.name
    assert run.config.substitute_seconds == standard_run.seconds


def test_the_default_bundle_trains_on_from_the_network_that_it_serves():
    default = load_bundle(default_bundle())
    logits = torch_logits(ServedNetwork(open_run(default.path).network()).eval(), default.golden.inputs)
    assert abs(logits - default.golden.logits).max() < 1e-4


def test_large_weights_are_left_out(abnn_run, bundle, monkeypatch):
    model = bundle.read("model.onnx")
    size = len(pack_weights(abnn_run, model))
    assert size < MAX_BYTES
    monkeypatch.setattr("abnn_serve.lab.training.weights_file.MAX_BYTES", 1000)
    assert pack_weights(abnn_run, model) is None


def test_weights_that_were_written_whole_are_read(bundle, abnn_run, tmp_path):
    with safe_open(bundle.path / WEIGHTS_FILE, "pt") as file:
        header = file.metadata()
    del header["in_graph"]
    whole = save({name: value.contiguous() for name, value in abnn_run.network().state_dict().items()}, header)
    files = {name: bundle.read(name) for name in bundle.manifest.files} | {WEIGHTS_FILE: whole}
    older = write_bundle(tmp_path / "older", files, lambda entries: replace(bundle.manifest, files=entries))
    ours, theirs = open_run(older.path).network().state_dict(), abnn_run.network().state_dict()
    assert all(torch.equal(value, theirs[name]) for name, value in ours.items())


def test_an_older_bundle_still_serves_and_says_that_it_keeps_no_weights(older_bundle, val_data):
    assert Predictor.open(older_bundle.path, device="cpu", threads=1).predict(val_data.images[:2], top_k=1)
    with pytest.raises(TrainingError, match=r"older has no weights\.safetensors to start from; export its run again"):
        open_run(older_bundle.path)


def test_damaged_weights_are_refused(bundle, tmp_path):
    copied = shutil.copytree(bundle.path, tmp_path / "copy")
    weights = bytearray((copied / WEIGHTS_FILE).read_bytes())
    weights[-1] ^= 1
    (copied / WEIGHTS_FILE).write_bytes(weights)
    with pytest.raises(BundleIntegrityError, match=r"weights\.safetensors is damaged or was changed"):
        load_bundle(copied)
