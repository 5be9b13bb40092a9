"""What `benchmarks.latency` times: a pair's graphs and its torch module, and the default bundle."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch

from abnn_serve.export.fp16 import to_fp16
from abnn_serve.export.int8 import to_int8
from abnn_serve.lab.abnn.network import ServedNetwork
from abnn_serve.runtime.engine import Engine
from abnn_serve.runtime.open_vino import has_bf16, has_openvino
from abnn_serve.runtime.predictor import Predictor
from abnn_serve.runtime.settings import Device, default_bundle
from abnn_serve.spec import Precision
from benchmarks.common.timing import Call
from benchmarks.pair.graphs import Graphs, build_pair

Images = np.ndarray[Any, Any]

PARTS = ("target", "substitute", "fused")
OPENVINO = ", OpenVINO"  # suffix of case names; cases in ONNX Runtime have none
FIRST = (224, 1)  # pixels and batch of the input that has every case, even with --quick


def pair_cases(
    graphs: Graphs, size: int, batch: int, options: argparse.Namespace, engines: Callable[..., Engine]
) -> dict[str, Callable[[], Call]]:
    """Functions that each prepare one case, by name; with --quick only those that the bars need."""
    images = np.random.default_rng(0).integers(0, 256, (batch, size, size, 3), dtype=np.uint8)

    def case(model: bytes, device: Device = options.device, precision: Precision = "fp32") -> Call:
        batches = (batch,) if device == "cuda" else None  # an engine with all sizes takes gigabytes at 224 px
        engine = engines(model, device, options.threads, precision, batches=batches)
        return lambda: engine.run(images)

    def fp16_case(model: bytes) -> Call:
        return case(to_fp16(model))

    quick, on_cpu = options.quick, options.device == "cpu"
    openvino = on_cpu and has_openvino()
    first = (size, batch) == FIRST
    makers: dict[str, Callable[[], Call]] = {}
    if not (quick and openvino):
        makers |= {name: partial(case, graphs[name]) for name in PARTS}
    if not on_cpu:
        makers |= {f"{name} fp16": partial(fp16_case, graphs[name]) for name in PARTS}
    if openvino:
        makers |= {f"{name}{OPENVINO}": partial(case, graphs[name], "openvino") for name in PARTS}
    if openvino and (first or not quick):
        makers["int8"] = lambda: case(to_int8(graphs["fused"], images), "openvino")
    if first or not quick:
        makers["eager"] = lambda: _torch_case(images, options)
    return makers if quick else makers | _without_bars(graphs, images, case, options)


def _without_bars(
    graphs: Graphs, images: Images, case: Callable[..., Call], options: argparse.Namespace
) -> dict[str, Callable[[], Call]]:
    makers: dict[str, Callable[[], Call]] = {
        "exported": lambda: case(graphs["exported"]),
        "two sessions": lambda: _in_sequence(case(graphs["target"]), case(graphs["substitute"])),
        "torch.compile": lambda: _torch_case(images, options, compiled=True),
    }
    if options.device == "cpu":
        makers["int8, ONNX Runtime"] = lambda: case(to_int8(graphs["fused"], images))
        if has_openvino() and has_bf16():
            makers["bf16"] = lambda: case(graphs["fused"], "openvino", "bf16")
    return makers


def _in_sequence(*calls: Call) -> Call:
    return lambda: [call() for call in calls]


def _torch_case(images: Images, options: argparse.Namespace, *, compiled: bool = False) -> Call:
    pair = build_pair(options.network, images.shape[1], options.rank, options.form)
    network = ServedNetwork(pair).eval().to(options.device)
    forward = torch.compile(network) if compiled else network
    tensor = torch.from_numpy(images)

    def call() -> object:
        with torch.inference_mode():
            return forward(tensor.to(options.device)).cpu()

    return call


def predictor_cases(device: Device, threads: int) -> dict[str, Call]:
    """The default bundle on one image: its Predictor, and the engine alone."""
    predictor = Predictor.open(default_bundle(), device=device, threads=threads)
    image = predictor.bundle.golden.inputs[:1]
    engine = predictor.session.engine
    return {"raw": lambda: engine.run(image), "predictor": lambda: predictor.predict(image)}
