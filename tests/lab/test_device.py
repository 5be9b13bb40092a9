from __future__ import annotations

import pytest
import torch

from abnn_serve.errors import DeviceError
from abnn_serve.evaluation.report import measure
from abnn_serve.evaluation.subject import open_subject
from abnn_serve.evaluation.suites import choose_trials
from abnn_serve.evaluation.threats import Subject
from abnn_serve.hardware import has_cuda_device
from abnn_serve.lab.abnn.network import AdaptiveNetwork, PixelNetwork
from abnn_serve.lab.device import exact_fp32
from abnn_serve.lab.training.assemble import _calibrate
from tests.cuda_stub.process import ROOT
from tests.networks import plain


def _precisions() -> list[str]:
    return [torch.backends.cudnn.conv.fp32_precision, torch.backends.cuda.matmul.fp32_precision]


def test_exact_fp32_keeps_tf32_out_and_restores_what_was_set():
    before = _precisions()
    with exact_fp32():
        assert _precisions() == ["ieee", "ieee"]
    assert _precisions() == before


def test_an_evaluation_runs_without_tf32(val_data):
    network, seen = PixelNetwork(plain(len(val_data.classes.names))).eval(), set()
    network.register_forward_pre_hook(lambda *_: seen.add(tuple(_precisions())))
    subject, before = Subject(network=network), _precisions()
    trials = choose_trials(subject, attacks=["fgsm"], threats=["whitebox"])
    measure(subject, val_data.spread(8), trials, curve_images=0)
    assert seen == {("ieee", "ieee")}
    assert _precisions() == before


@pytest.mark.skipif(has_cuda_device(), reason="this machine has a CUDA device")
def test_black_box_queries_run_on_the_device_asked_for():
    with pytest.raises(DeviceError, match="ABNN_DEVICE is 'cuda' but this machine has no CUDA device"):
        open_subject(ROOT / "models" / "cifar10-abnn-robust", device="cuda")


def test_calibration_runs_on_the_device_asked_for_and_ends_on_the_cpu(val_data, monkeypatch):
    moves, devices = [], []
    network = AdaptiveNetwork(PixelNetwork(plain(2)), PixelNetwork(plain(2)), [], [])
    monkeypatch.setattr(network, "to", lambda device: moves.append(device) or network)
    monkeypatch.setattr(network, "calibrate", lambda batches: devices.extend(batch.device.type for batch in batches))
    _calibrate(network, val_data, "meta")
    assert moves == ["meta", "cpu"]
    assert set(devices) == {"meta"}
