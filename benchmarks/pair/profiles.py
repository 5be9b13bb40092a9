"""Time by kind of kernel, from the engines' own profilers."""

from __future__ import annotations

import json
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

from abnn_serve.runtime.engine import CPU

RUNS = 20
Images = np.ndarray[Any, Any]
Profile = tuple[float, dict[str, float]]  # median seconds of a run; mean seconds in each kind of kernel, longest first


def profile_onnxruntime(model: bytes, images: Images, threads: int) -> Profile:
    """Profile a graph in ONNX Runtime."""
    plain = cpu_session(model, threads)
    seconds = float(np.median(times(lambda: plain.run(None, {"image": images}))))
    with tempfile.TemporaryDirectory() as scratch:
        profiled = cpu_session(model, threads, Path(scratch) / "profile")
        times(lambda: profiled.run(None, {"image": images}))
        events = json.loads(Path(profiled.end_profiling()).read_text())
    return seconds, _mean_by_kind(
        (event["args"]["op_name"], event["dur"] / 1e6)
        for event in events
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time")
    )


def profile_openvino(model: bytes, images: Images, threads: int) -> Profile:
    """Profile a graph in OpenVINO; operators fused into a convolution count as that convolution."""
    import openvino

    core = openvino.Core()
    graph = core.read_model(model)
    graph.reshape(list(images.shape))
    settings = {"INFERENCE_NUM_THREADS": threads, "INFERENCE_PRECISION_HINT": "f32"}
    plain = core.compile_model(graph, "CPU", settings).create_infer_request()
    seconds = float(np.median(times(lambda: plain.infer({0: images}, share_inputs=True))))
    profiled = core.compile_model(graph, "CPU", {**settings, "PERF_COUNT": True}).create_infer_request()
    kernels: list[tuple[str, float]] = []
    for _ in range(RUNS):
        profiled.infer({0: images}, share_inputs=True)
        kernels += [(node.node_type, node.real_time.total_seconds()) for node in profiled.profiling_info]
    return seconds, _mean_by_kind(kernels)


def cpu_session(model: bytes, threads: int, profile_prefix: Path | None = None) -> ort.InferenceSession:
    """An ONNX Runtime session on the CPU, which writes a profile if a file prefix is given."""
    options = ort.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = threads, 3
    if profile_prefix:
        options.enable_profiling, options.profile_file_prefix = True, str(profile_prefix)
    return ort.InferenceSession(model, options, providers=[CPU])


def times(call: Callable[[], object]) -> list[float]:
    """Seconds of each of `RUNS` calls."""
    seconds = []
    for _ in range(RUNS):
        start = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - start)
    return seconds


def _mean_by_kind(kernels: Iterable[tuple[str, float]]) -> dict[str, float]:
    means: dict[str, float] = defaultdict(float)
    for kind, seconds in kernels:
        means[kind] += seconds / RUNS
    return dict(sorted(((kind, mean) for kind, mean in means.items() if mean), key=lambda item: -item[1]))
