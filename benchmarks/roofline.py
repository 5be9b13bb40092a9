"""How near the fused graph comes to this machine's arithmetic, and where the rest of its time goes.

python benchmarks/roofline.py --out benchmarks/results/roofline-cpu

Peak is the best float32 matrix product of ONNX Runtime's on the same threads; traffic is a large array copied. Kernel
times are the engine's own profile of the graph that serving runs, its layout and fusions included: ONNX Runtime's, and
OpenVINO's where it is there.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from common.pairs import add_pair_options, pair_graphs
from common.report import write_record
from matplotlib.figure import Figure
from onnx import TensorProto, helper

from abnn_serve.errors import AbnnError
from abnn_serve.runtime.engine import CPU
from abnn_serve.runtime.open_vino import openvino_is_there

RUNS = 20
_MATRIX = 1536
_COPY_MB = 256
Images = np.ndarray[Any, Any]


def main() -> None:
    """Measure the peak, profile the graphs, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_pair_options(parser)
    parser.add_argument("--size", type=int, default=224, help="pixels of a side")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, help="stem of the JSON and PNG files to write")
    options = parser.parse_args()
    peak, bandwidth = matrix_peak(options.threads), copy_bandwidth()
    print(f"peak {peak / 1e9:.1f} GFLOP/s on {options.threads} thread(s), copying {bandwidth / 1e9:.1f} GB/s\n")
    graphs = pair_graphs(options.network, options.size, options.rank, options.form)
    image = np.random.default_rng(0).integers(0, 256, (options.batch, options.size, options.size, 3), dtype=np.uint8)
    cases = {name: (profile, name) for name in ("target", "exported", "fused")}
    if openvino_is_there():
        cases |= {f"{name}, OpenVINO": (profile_openvino, name) for name in ("target", "fused")}
    rows, kernels = {}, {}
    for name, (take, graph) in cases.items():
        operations = convolution_flops(graphs[graph]) * options.batch
        seconds, kernels[name] = take(graphs[graph], image, options.threads)
        rows[name] = {"flops": operations, "seconds": seconds, "share_of_peak": operations / seconds / peak}
        print(
            f"{name}: {operations / 1e9:.2f} GFLOP in {1000 * seconds:.2f} ms, "
            f"{100 * operations / seconds / peak:.0f}% of peak"
        )
        for kind, spent in kernels[name].items():
            print(f"    {kind:<24} {1000 * spent:7.2f} ms  {100 * spent / seconds:5.1f}%")
    if options.out:
        figures = {"peak_flops": peak, "copy_bytes_per_second": bandwidth, "graphs": rows, "kernel_seconds": kernels}
        write_record(options.out.with_suffix(".json"), vars(options), **figures)
        _draw(kernels, options.out.with_suffix(".png"))


def matrix_peak(threads: int) -> float:
    """Floating-point operations a second of the best square matrix product in ONNX Runtime."""
    shape = [_MATRIX, _MATRIX]
    ports = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in ("a", "c")]
    weight = np.random.default_rng(0).standard_normal(shape, dtype=np.float32)
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["a", "b"], ["c"])],
        "g",
        ports[:1],
        ports[1:],
        [onnx.numpy_helper.from_array(weight, "b")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    session = _session(model.SerializeToString(), threads)
    return 2 * _MATRIX**3 / _best(lambda: session.run(None, {"a": weight}))


def copy_bandwidth() -> float:
    """Bytes a second, read and written, of one large copy."""
    source = np.ones(_COPY_MB << 20, np.uint8)  # zeros would be one page of memory
    target = np.ones_like(source)
    return 2 * source.nbytes / _best(lambda: np.copyto(target, source))


def convolution_flops(model: bytes) -> int:
    """Floating-point operations of all convolutions for one sample: two for each multiplication with addition."""
    graph = onnx.shape_inference.infer_shapes(onnx.load_from_string(model)).graph
    shapes = {v.name: [d.dim_value for d in v.type.tensor_type.shape.dim] for v in (*graph.value_info, *graph.output)}
    weights = {w.name: list(w.dims) for w in graph.initializer}
    return sum(
        2 * int(np.prod(shapes[node.output[0]][1:])) * int(np.prod(weights[node.input[1]][1:]))
        for node in graph.node
        if node.op_type == "Conv"
    )


def profile(model: bytes, image: Images, threads: int) -> tuple[float, dict[str, float]]:
    """Median seconds of a run in ONNX Runtime, and mean seconds of each kind of kernel in it, most first."""
    plain = _session(model, threads)
    seconds = float(np.median(_times(lambda: plain.run(None, {"image": image}))))
    with tempfile.TemporaryDirectory() as scratch:
        profiled = _session(model, threads, Path(scratch) / "profile")
        _times(lambda: profiled.run(None, {"image": image}))
        events = json.loads(Path(profiled.end_profiling()).read_text())
    return seconds, _mean(
        (event["args"]["op_name"], event["dur"] / 1e6)
        for event in events
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time")
    )


def profile_openvino(model: bytes, image: Images, threads: int) -> tuple[float, dict[str, float]]:
    """The same in OpenVINO; what it joined into a convolution counts as one."""
    import openvino

    core, spent = openvino.Core(), []
    graph = core.read_model(model)
    graph.reshape(list(image.shape))
    settings = {"INFERENCE_NUM_THREADS": threads, "INFERENCE_PRECISION_HINT": "f32"}
    plain = core.compile_model(graph, "CPU", settings).create_infer_request()
    seconds = float(np.median(_times(lambda: plain.infer({0: image}, share_inputs=True))))
    profiled = core.compile_model(graph, "CPU", {**settings, "PERF_COUNT": True}).create_infer_request()
    for _ in range(RUNS):
        profiled.infer({0: image}, share_inputs=True)
        spent += [(each.node_type, each.real_time.total_seconds()) for each in profiled.profiling_info]
    return seconds, _mean(spent)


def _mean(kernels: Iterable[tuple[str, float]]) -> dict[str, float]:
    spent: dict[str, float] = defaultdict(float)
    for kind, seconds in kernels:
        spent[kind] += seconds / RUNS
    return dict(sorted(((kind, took) for kind, took in spent.items() if took), key=lambda item: -item[1]))


def _session(model: bytes, threads: int, profile_to: Path | None = None) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = threads, 3
    if profile_to:
        options.enable_profiling, options.profile_file_prefix = True, str(profile_to)
    return ort.InferenceSession(model, options, providers=[CPU])


def _best(call: Callable[[], object]) -> float:
    return min(_times(call))


def _times(call: Callable[[], object]) -> list[float]:
    times = []
    for _ in range(RUNS):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return times


def _draw(kernels: dict[str, dict[str, float]], path: Path) -> None:
    figure = Figure(figsize=(9, 4.5), layout="constrained")
    axis = figure.subplots()
    kinds = sorted({kind for of in kernels.values() for kind in of}, key=lambda k: -max(_each(kernels, k)))
    names, left = list(kernels), np.zeros(len(kernels))
    for kind in kinds[:9]:
        widths = 1000 * np.asarray(_each(kernels, kind))
        axis.barh(names, widths, left=left, label=kind)
        left += widths
    axis.barh(
        names,
        [1000 * sum(kernels[n].values()) - at for n, at in zip(names, left, strict=True)],
        left=left,
        label="others",
    )
    axis.set_xlabel("ms in kernels")
    figure.legend(loc="outside lower center", ncols=5, fontsize="small")
    figure.savefig(path, dpi=110)


def _each(kernels: dict[str, dict[str, float]], kind: str) -> list[float]:
    return [of.get(kind, 0.0) for of in kernels.values()]


if __name__ == "__main__":
    try:
        main()
    except AbnnError as error:
        sys.exit(f"roofline: {error}")
