"""The CUDA path over a runtime that computes nothing: what ONNX Runtime's real CUDA provider decides and calls."""

from __future__ import annotations

import shutil
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

from abnn_serve.export.fp16 import to_fp16
from tests.cuda_stub.process import ROOT, Stub

CUDA = "CUDAExecutionProvider"
BUNDLES = ("cifar10-abnn-robust", "cifar10-abnn", "motions-abnn")
VARIANTS = ("fp32", "fp16", "drift")
BUNDLE_GRAPHS = [f"{bundle} {variant}" for bundle in BUNDLES for variant in VARIANTS]
BUNDLE_GRAPHS += ["cifar10-masks fp32", "cifar10-masks fp16"]
LAUNCHES = {
    "cifar10-abnn-robust fp32": 94,
    "cifar10-abnn-robust fp16": 105,
    "cifar10-abnn-robust drift": 118,
    "cifar10-abnn fp32": 85,
    "cifar10-abnn fp16": 114,
    "cifar10-abnn drift": 109,
    "motions-abnn fp32": 69,
    "motions-abnn fp16": 74,
    "motions-abnn drift": 89,
}
NEW = ("cudaMalloc", "cudaMallocFromPoolAsync", "cudaMallocHost", "cudaHostAlloc", "cudaStreamBeginCapture")
HANDLES = ("cudnnCreate", "cublasCreate_v2", "cublasLtCreate", "cudaStreamCreateWithFlags", "launches")


@pytest.fixture(scope="module")
def graphs(tmp_path_factory) -> dict[str, Path]:
    """Files of every graph of the shipped bundles, by the names of BUNDLE_GRAPHS."""
    folder, files = tmp_path_factory.mktemp("graphs"), {}
    for name in BUNDLE_GRAPHS:
        bundle, variant = name.split()
        model = (ROOT / "models" / bundle / "model.onnx").read_bytes()
        if variant == "drift":
            model += (ROOT / "models" / bundle / "drift.onnx").read_bytes()
        files[name] = folder / f"{bundle}.{variant}.onnx"
        files[name].write_bytes(to_fp16(model) if variant == "fp16" else model)
    return files


@pytest.fixture(scope="module")
def placements(stub: Stub, graphs) -> dict[str, dict]:
    answers = stub.ask("placement", *graphs.values())
    return {name: answers[str(file)] for name, file in graphs.items()}


@pytest.fixture(scope="module")
def launches(stub: Stub, graphs) -> dict[str, int]:
    answers = stub.ask("launches", *graphs.values())
    return {name: answers[str(file)] for name, file in graphs.items()}


@pytest.mark.parametrize("name", BUNDLE_GRAPHS)
def test_every_node_of_a_shipped_graph_runs_on_cuda_and_can_be_captured(name, placements):
    assert list(placements[name]) == [CUDA]


@pytest.mark.parametrize("name", LAUNCHES)
def test_a_shipped_graph_starts_no_more_kernels_for_one_sample_than_it_did(name, launches):
    assert launches[name] <= LAUNCHES[name]


def check_replays(answer: dict) -> None:
    """The engine captured every bucket, and its runs were copies and replays that read what was captured."""
    assert answer["graphs"]
    assert "refused under capture" not in answer["opened"]
    ran = answer["ran"]
    assert ran.pop("cudaMemcpy") >= 2 * answer["runs"]
    assert ran.pop("cudaGraphLaunch") == answer["runs"]
    assert set(ran) <= {"cudaStreamSynchronize", "cudaSetDevice"}, ran


@pytest.mark.parametrize("name", BUNDLE_GRAPHS)
def test_every_bucket_in_any_order_replays_what_was_captured(name, stub, graphs):
    check_replays(stub.ask("replays", graphs[name]))


def test_no_request_captures_allocates_or_makes_a_handle_from_any_thread_before_or_after_a_reload(stub, graphs):
    for calls in stub.ask("requests", graphs["cifar10-abnn-robust fp32"]).values():
        assert calls["cudaGraphLaunch"] == 4
        assert not {*NEW, *HANDLES} & set(calls)


def test_an_engine_that_goes_returns_its_memory(stub, graphs):
    during, *after = stub.ask("memory", graphs["cifar10-abnn-robust fp32"])
    assert during < 92 << 20  # 109 MiB if the normalised maps are kept
    assert len(set(after)) == 1
    assert after[0] < 0.05 * during


def test_an_engine_for_one_batch_size_holds_less_and_answers_all_sizes(stub, graphs):
    answer = stub.ask("few_batches", graphs["cifar10-abnn-robust fp32"])
    every, one = answer["live"]
    assert one < 0.5 * every
    assert answer["shapes"] == [[1, 10], [8, 10], [20, 10]]
    assert answer["calls"]["cudaGraphLaunch"] == 1 + 1 + 3


def test_an_engine_opens_where_pages_cannot_be_locked(stub, graphs):
    answer = stub.ask("replays", graphs["cifar10-abnn-robust fp32"], STUB_PINS_NOTHING="1")
    assert "cudaHostUnregister" not in answer["ran"]
    check_replays(answer)


def test_batches_without_cuda_graphs_run_at_one_padded_size(stub, graphs):
    file = graphs["cifar10-abnn-robust fp32"]
    answer = stub.ask("replays", file, STUB_FAILS="cudaStreamBeginCapture")
    assert not answer["graphs"]
    assert "cudaGraphLaunch" not in answer["ran"]
    # cuDNN makes a plan for each convolution of a new shape
    assert not [call for call in answer["ran"] if call.startswith("cudnnBackend") and call != "cudnnBackendExecute"]
    assert answer["shape"] == [64, 10]


@pytest.mark.parametrize(("version", "graphs_on"), [("1.29.4", False), ("1.30.0", True), ("2.0.0", True)])
def test_only_versions_that_replay_correctly_get_cuda_graphs(version, graphs_on, stub, graphs):
    answer = stub.ask("opened", graphs["motions-abnn fp32"], "cuda", STUB_ORT=version)
    assert (answer["graphs"], "cudaStreamBeginCapture" in answer["calls"]) == (graphs_on, graphs_on)


def test_drift_is_replayed_too(stub):
    answer = stub.ask("drift", ROOT / "models" / "cifar10-abnn")
    assert answer["calls"]["cudaGraphLaunch"] == 6
    assert not {*NEW, *HANDLES} & set(answer["calls"])
    assert answer["shapes"] == [[[size, 10], [size, 9]] for size in (1, 2, 1, 2, 64, 5)]


def _graph(path: Path, *nodes: onnx.NodeProto, output: list[int | str], numbers: dict | None = None) -> Path:
    graph = helper.make_graph(
        list(nodes),
        "g",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, ["N", 4, 4, 3])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, output)],
        [onnx.numpy_helper.from_array(value, name) for name, value in (numbers or {}).items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), path)
    return path


def _cast() -> onnx.NodeProto:
    return helper.make_node("Cast", ["image"], ["logits"], to=TensorProto.FLOAT)


def test_an_output_of_any_rank_has_a_buffer(stub, tmp_path):
    file = _graph(tmp_path / "map.onnx", _cast(), output=["N", 4, 4, 3])
    answer = stub.ask("replays", file)
    assert (answer["graphs"], answer["shape"]) == (True, [64, 4, 4, 3])


@pytest.mark.parametrize("function", ["cudaMalloc", "cudnnCreate", "cublasCreate_v2", "launches"])
def test_auto_serves_on_the_cpu_with_one_warning_whatever_fails_while_cuda_opens(function, stub, graphs):
    if function == "launches":
        function = "kernel _ZN11onnxruntime4cuda17_UnaryElementWiseIhfNS0_7OP_CastIhfEELi256ELi4EEEvPKT_PT0_T1_l"
    answer = stub.ask("opened", graphs["motions-abnn fp32"], "auto", STUB_FAILS=function)
    assert list(answer["placement"]) == ["CPUExecutionProvider"]
    (warning,) = answer["warnings"]
    assert warning.startswith("running on the CPU: ONNX Runtime fails on this GPU: ")


def test_auto_serves_on_the_cpu_with_one_warning_where_a_library_is_missing(stub, graphs, tmp_path):
    folder = tmp_path / "libraries"
    shutil.copytree(stub.libraries, folder)
    (folder / "libcublas.so.13").unlink()
    answer = Stub(folder).ask("opened", graphs["motions-abnn fp32"], "auto")
    assert list(answer["placement"]) == ["CPUExecutionProvider"]
    (warning,) = answer["warnings"]
    assert warning.endswith("pip install 'abnn_serve[cuda]', or set ABNN_DEVICE=cpu")


def test_cuda_that_fails_is_a_device_error_that_names_the_failure(stub, graphs):
    answer = stub.ask("opened", graphs["motions-abnn fp32"], "cuda", STUB_FAILS="cudaMalloc")
    kind, message = answer["error"]
    assert kind == "DeviceError"
    assert message.startswith("ONNX Runtime fails on this GPU: ")
    assert message.endswith("; check nvidia-smi, or set ABNN_DEVICE=cpu")


def test_a_driver_that_is_too_old_is_to_be_updated(stub, graphs):
    kind, message = stub.ask("opened", graphs["motions-abnn fp32"], "cuda", STUB_DRIVER="12080")["error"]
    assert (kind, message.partition(" but this ")[0]) == (
        "DeviceError",
        "ABNN_DEVICE is 'cuda' but the NVIDIA driver supports CUDA 12.8",
    )
    assert message.endswith("; update the driver, or set ABNN_DEVICE=cpu")
    answer = stub.ask("opened", graphs["motions-abnn fp32"], "auto", STUB_DRIVER="12080")
    assert len(answer["warnings"]) == 1


def test_int8_is_for_cpus(stub):
    file = ROOT / "models" / "cifar10-abnn" / "model.int8.onnx"
    kind, message = stub.ask("opened", file, "cuda", "int8")["error"]
    assert kind == "DeviceError"
    assert message == (
        "ABNN_DEVICE is 'cuda' but int8 graphs run on CPUs only; "
        "set ABNN_PRECISION=fp16 for this GPU, or ABNN_DEVICE=cpu"
    )
    answer = stub.ask("opened", file, "auto", "int8")
    assert list(answer["placement"]) == ["CPUExecutionProvider"]
    assert answer["warnings"] == ["running on the CPU: int8 graphs run on CPUs only"]


def test_a_lost_device_is_told_from_other_errors(stub, graphs):
    kind, message = stub.ask("lost_device", graphs["motions-abnn fp32"])["error"]
    assert kind == "DeviceLostError"
    assert message.startswith("the GPU no longer works in this process: ")


def test_an_engine_takes_all_its_memory_from_the_gpu_asked_for(stub, graphs):
    calls = stub.ask("opened", graphs["motions-abnn fp32"], "cuda", "fp32", "1", STUB_DEVICES="2")["calls"]
    assert calls["allocations on another GPU than the first"] == sum(
        calls.get(name, 0) for name in ("cudaMalloc", "cudaMallocFromPoolAsync")
    )


def test_a_gpu_that_is_not_there_is_an_error_that_counts_them(stub, graphs):
    kind, message = stub.ask("opened", graphs["motions-abnn fp32"], "cuda", "fp32", "2", STUB_DEVICES="2")["error"]
    assert (kind, message) == (
        "DeviceError",
        "ABNN_DEVICE is 'cuda' but ABNN_GPU is 2 and this machine has 2 GPUs, counted from 0; set it to 1 or less",
    )
