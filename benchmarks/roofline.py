"""How close does the fused graph come to this machine's peak arithmetic, and where does the rest of its time go?

python -m benchmarks.roofline --out benchmarks/results/roofline-cpu

Peak is ONNX Runtime's best float32 matrix product on the same threads; bandwidth is that of copying a large array.
Kernel times come from the engine's own profile of the graph as it is served, with its layout changes and fusions: ONNX
Runtime's, and OpenVINO's if it is installed.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper

from abnn_serve.runtime.open_vino import has_openvino
from benchmarks.common.command import add_out_option, new_parser, run
from benchmarks.common.plots import draw_kernels
from benchmarks.common.report import Bar, write_record
from benchmarks.pair.graphs import add_pair_options, pair_graphs
from benchmarks.pair.profiles import cpu_session, profile_onnxruntime, profile_openvino, times

_MATRIX = 1536
_COPY_MEGABYTES = 256


def main() -> list[Bar]:
    """Measure the peak, profile the graphs, print and write the results."""
    parser = new_parser("roofline", __doc__)
    add_pair_options(parser)
    parser.add_argument("--size", type=int, default=224, help="height and width in pixels")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1, help="threads of one run")
    add_out_option(parser, "JSON and PNG")
    options = parser.parse_args()
    peak, bandwidth = matrix_peak(options.threads), copy_bandwidth()
    print(f"peak {peak / 1e9:.1f} GFLOP/s on {options.threads} thread(s), copy {bandwidth / 1e9:.1f} GB/s\n")
    graphs = pair_graphs(options.network, options.size, options.rank, options.form)
    images = np.random.default_rng(0).integers(0, 256, (options.batch, options.size, options.size, 3), dtype=np.uint8)
    cases = {name: (profile_onnxruntime, name) for name in ("target", "exported", "fused")}
    if has_openvino():
        cases |= {f"{name}, OpenVINO": (profile_openvino, name) for name in ("target", "fused")}
    rows, kernels = {}, {}
    for name, (profile, graph) in cases.items():
        flops = convolution_flops(graphs[graph]) * options.batch
        seconds, kernels[name] = profile(graphs[graph], images, options.threads)
        rows[name] = {"flops": flops, "seconds": seconds, "share_of_peak": flops / seconds / peak}
        share = f"{100 * flops / seconds / peak:.0f}% of peak"
        print(f"{name}: {flops / 1e9:.2f} GFLOP in {1000 * seconds:.2f} ms, {share}")
        for kind, spent in kernels[name].items():
            print(f"    {kind:<24} {1000 * spent:7.2f} ms  {100 * spent / seconds:5.1f}%")
    if options.out:
        write_record(
            options.out,
            vars(options),
            peak_flops=peak,
            copy_bytes_per_second=bandwidth,
            graphs=rows,
            kernel_seconds=kernels,
        )
        draw_kernels(kernels, options.out.with_suffix(".png"))
    return []


def matrix_peak(threads: int) -> float:
    """Floating-point operations per second of ONNX Runtime's best square matrix product."""
    shape = [_MATRIX, _MATRIX]
    a, c = (helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in ("a", "c"))
    values = np.random.default_rng(0).standard_normal(shape, dtype=np.float32)
    b = onnx.numpy_helper.from_array(values, "b")
    graph = helper.make_graph([helper.make_node("MatMul", ["a", "b"], ["c"])], "g", [a], [c], [b])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    session = cpu_session(model.SerializeToString(), threads)
    return 2 * _MATRIX**3 / min(times(lambda: session.run(None, {"a": values})))


def copy_bandwidth() -> float:
    """Bytes per second, read and written, of copying one large array."""
    source = np.ones(_COPY_MEGABYTES << 20, np.uint8)  # zeros would share one page of memory
    target = np.ones_like(source)
    return 2 * source.nbytes / min(times(lambda: np.copyto(target, source)))


def convolution_flops(model: bytes) -> int:
    """Floating-point operations of all convolutions for one sample, two for each multiply-add."""
    graph = onnx.shape_inference.infer_shapes(onnx.load_from_string(model)).graph
    shapes = {v.name: [d.dim_value for d in v.type.tensor_type.shape.dim] for v in (*graph.value_info, *graph.output)}
    weights = {w.name: list(w.dims) for w in graph.initializer}
    return sum(
        2 * int(np.prod(shapes[node.output[0]][1:])) * int(np.prod(weights[node.input[1]][1:]))
        for node in graph.node
        if node.op_type == "Conv"
    )


if __name__ == "__main__":
    run("roofline", main)
