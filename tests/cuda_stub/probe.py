"""Questions about ONNX Runtime's CUDA provider, each answered in a process that has the stub for its CUDA libraries.

python -m tests.cuda_stub.probe QUESTION FILE... prints the answer as JSON.
"""

from __future__ import annotations

import ctypes
import gc
import json
import logging
import os
import random
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

from abnn_serve.bundle.store import load_bundle
from abnn_serve.errors import AbnnError
from abnn_serve.runtime import cuda
from abnn_serve.runtime.cuda import CudaEngine
from abnn_serve.runtime.drift import DriftMeter
from abnn_serve.runtime.engine import open_graph
from abnn_serve.runtime.engine import placement as node_placement
from abnn_serve.runtime.providers import open_engine
from abnn_serve.runtime.session import Session

ort.preload_dlls = lambda *_args, **_kwargs: None  # it would load the real libraries, which need a driver
_STUB = ctypes.CDLL(f"libcudart.so.{ort.cuda_version.partition('.')[0]}")
ort.__version__ = os.environ.get("STUB_ORT", ort.__version__)  # only what abnn_serve reads of it
_STUB.stub_read.restype = ctypes.c_long
_STUB.stub_live.restype = ctypes.c_size_t
_KEPT: list[CudaEngine] = []  # freeing an engine on a lost device aborts the process
_LIBRARY_KERNELS = (
    "cudnnBackendExecute",
    "cudnnAddTensor",
    "cudnnPoolingForward",
    "cudnnReduceTensor",
    "cudnnBatchNormalizationForwardTraining",
)


def counts() -> dict[str, int]:
    """Calls since the last `counts`, by name."""
    calls, name, i = {}, ctypes.create_string_buffer(200), 0
    while (count := _STUB.stub_read(i, name)) >= 0:
        calls[name.value.decode()], i = count, i + 1
    _STUB.stub_reset()
    return calls


def placement(*files: str) -> dict[str, dict[str, dict[str, int]]]:
    """By file, the placement of a session that may capture; an `error` where ONNX Runtime refuses."""
    answers: dict[str, Any] = {}
    for file in files:
        try:
            session = open_graph(_read(file), 1, cuda._providers(graphs=True))
            answers[file] = node_placement(session)
        except Exception as error:
            answers[file] = {"error": str(error)}
    return answers


def launches(*files: str) -> dict[str, int]:
    """By file, kernels started for one sample, those of cuDNN and cuBLAS included."""
    answers = {}
    for file in files:
        session = open_graph(_read(file), 1, cuda._providers(graphs=False))
        (port,) = session.get_inputs()
        feed = {port.name: np.zeros((1, *port.shape[1:]), np.uint8)}
        session.run(None, feed)
        counts()
        session.run(None, feed)
        calls = counts()
        library = (n for name, n in calls.items() if name in _LIBRARY_KERNELS or ("cublas" in name and "emm" in name))
        answers[file] = calls["launches"] + sum(library)
    return answers


def replays(file: str) -> dict[str, Any]:
    """Calls while an engine opens, and while it then runs every bucket from large to small, back, and shuffled."""
    engine = CudaEngine(Path(file).read_bytes())
    opened, shape = counts(), engine.inputs[0].shape[1:]
    sizes = cuda.bucket_sizes(engine.inputs[0].frames)
    order = [*reversed(sizes), *sizes, *random.Random(0).choices(sizes, k=30)]
    shapes = [engine.run(np.zeros((size, *shape), np.uint8)).shape for size in order]
    return {"graphs": engine.graphs, "opened": opened, "ran": counts(), "runs": len(order), "shape": shapes[0]}


def requests(file: str) -> dict[str, Any]:
    """Calls while several threads run an engine: before a second one is made, beside it, and on the second."""
    model = Path(file).read_bytes()
    first = CudaEngine(model)
    counts()
    _run_in_threads(first)
    before = counts()
    with_second = _in_thread(lambda: CudaEngine(model))
    counts()
    _run_in_threads(first)
    beside = counts()
    del first
    gc.collect()
    _wait_until_freed()
    counts()
    _run_in_threads(with_second)
    return {"before": before, "beside": beside, "after": counts()}


def memory(file: str) -> list[int]:
    """Bytes of device memory while an engine lives, the least of three, and after each of them is freed."""
    model, live, freed = Path(file).read_bytes(), [], []
    for _ in range(3):
        engine = CudaEngine(model)
        live.append(int(_STUB.stub_live()))
        del engine
        gc.collect()
        freed.append(_wait_until_freed())
    return [min(live), *freed]


def few_batches(file: str) -> dict[str, Any]:
    """Bytes of device memory of an engine for all batch sizes, and of one for a single size, with its answers."""
    model, live = Path(file).read_bytes(), []
    for batches in (None, (8,)):
        before = int(_STUB.stub_live())
        engine = CudaEngine(model, batches=batches)
        _KEPT.append(engine)
        live.append(int(_STUB.stub_live()) - before)
    counts()
    images = np.zeros((20, *engine.inputs[0].shape[1:]), np.uint8)
    shapes = [engine.run(images[:size]).shape for size in (1, 8, 20)]
    return {"live": live, "shapes": shapes, "calls": counts()}


def opened(file: str, device: str, precision: str = "fp32", gpu: str = "0") -> dict[str, Any]:
    """The placement of an engine, or its error, the warnings and the calls while opening it."""
    warnings: list[str] = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: warnings.append(record.getMessage())  # type: ignore[method-assign]
    logging.getLogger("abnn_serve").addHandler(handler)
    answer: dict[str, Any] = {"warnings": warnings}
    try:
        for _ in range(2):
            engine = open_engine(Path(file).read_bytes(), device, 1, precision, int(gpu))  # type: ignore[arg-type]
        answer |= {"placement": engine.placement, "graphs": getattr(engine, "graphs", None), "calls": counts()}
    except AbnnError as error:
        answer["error"] = [type(error).__name__, str(error)]
    return answer


def drift(folder: str) -> dict[str, Any]:
    """Calls while a bundle's drift meter runs batches of different sizes from several threads."""
    bundle = load_bundle(folder)
    session = Session.__new__(Session)  # the stub computes nothing, so golden logits would differ
    session.bundle, session.precision, session.threads, session.max_batch = bundle, "fp32", 1, 64
    session.providers, session.gpu = cuda._providers(graphs=False), 0
    DriftMeter._check = lambda _self, _bundle: None  # type: ignore[method-assign]
    meter = DriftMeter(session)
    counts()
    shapes = []
    for size in (1, 2, 1, 2, 64, 5):
        images = np.zeros((size, *bundle.manifest.input.shape), np.uint8)
        shapes.append([part.shape for part in _in_thread(lambda images=images: meter.run(images))])
    return {"calls": counts(), "shapes": shapes}


def lost_device(file: str) -> dict[str, Any]:
    """What an engine raises once every CUDA call fails; the process must then end without freeing it."""
    engine = CudaEngine(Path(file).read_bytes())
    _KEPT.append(engine)
    images = np.zeros((1, *engine.inputs[0].shape[1:]), np.uint8)
    _STUB.stub_break()
    try:
        engine.run(images)
    except Exception as error:
        return {"error": [type(error).__name__, str(error)]}
    return {"error": None}


def _read(file: str) -> bytes:
    """A graph as an engine opens it."""
    return cuda.with_fewer_kernels(Path(file).read_bytes())


def _run_in_threads(engine: CudaEngine) -> None:
    shape = engine.inputs[0].shape[1:]
    for size in (1, 3, cuda.bucket_sizes(engine.inputs[0].frames)[-1], 1):
        _in_thread(lambda size=size: engine.run(np.zeros((size, *shape), np.uint8)))


def _in_thread(work: Callable[[], Any]) -> Any:
    results: list[Any] = []
    thread = threading.Thread(target=lambda: results.append(work()))
    thread.start()
    thread.join()
    return results.pop()


def _wait_until_freed() -> int:
    """Device memory once it has been the same for a tenth of a second."""
    live = Counter({int(_STUB.stub_live()): 1})
    while max(live.values()) < 10:
        time.sleep(0.01)
        live[int(_STUB.stub_live())] += 1
    return int(_STUB.stub_live())


if __name__ == "__main__":
    print(json.dumps(globals()[sys.argv[1]](*sys.argv[2:])), flush=True)
    os._exit(0)  # on a lost device ONNX Runtime aborts in the destructor of a session
