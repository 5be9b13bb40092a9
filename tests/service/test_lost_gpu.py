from __future__ import annotations

import asyncio
import os
import signal
from types import SimpleNamespace

import numpy as np
import pytest

from abnn_serve.errors import DeviceLostError
from abnn_serve.runtime.settings import Settings
from abnn_serve.service import worker
from abnn_serve.service.catalog import Catalog
from abnn_serve.service.endpoints import info
from abnn_serve.service.errors import BusyError
from abnn_serve.service.metrics import Metrics
from abnn_serve.service.settings import ServiceSettings
from tests.cuda_stub.process import ROOT


def test_a_run_on_a_lost_gpu_is_reported_and_other_errors_are_not(monkeypatch):
    settings = Settings(bundle=ROOT / "models" / "motions-abnn", device="cpu", threads=1)
    lost: list[bool] = []
    catalog = Catalog(settings, ServiceSettings(), Metrics(workers=1), on_device_lost=lambda: lost.append(True))
    served = catalog.get()
    images = np.zeros((1, *served.spec.shape), np.uint8)

    def fail(kind: type[Exception]):
        def run(_images):
            raise kind("the GPU")

        monkeypatch.setattr(served.predictor.session, "run", run)
        with pytest.raises(kind):
            served.batcher._run(images)

    fail(RuntimeError)
    assert lost == []
    fail(DeviceLostError)
    assert lost == [True]


def test_a_worker_whose_gpu_is_lost_is_not_ready_and_shuts_down_once(monkeypatch):
    signals: list[tuple[int, int]] = []
    monkeypatch.setattr(worker.os, "kill", lambda *signal: signals.append(signal))
    state = worker.WorkerState()
    state.ready = True
    for _ in range(3):
        state.shut_down()
    app = SimpleNamespace(state=SimpleNamespace(service=state))
    with pytest.raises(BusyError):
        asyncio.run(info.ready(SimpleNamespace(app=app)))
    assert signals == [(os.getpid(), signal.SIGTERM)]
