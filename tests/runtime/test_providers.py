from __future__ import annotations

import onnxruntime
import pytest

import abnn_serve.runtime.cuda_library as cuda_library
import abnn_serve.runtime.providers as providers_module
from abnn_serve.bundle.store import Bundle
from abnn_serve.errors import DeviceError
from abnn_serve.hardware import has_cuda_device
from abnn_serve.runtime.cuda import CUDA
from abnn_serve.runtime.engine import CPU
from abnn_serve.runtime.providers import TENSORRT, misplaced
from abnn_serve.runtime.session import Session


@pytest.fixture
def gpu_without_libraries(monkeypatch):
    """As on a machine with a GPU and the core install: the device is there, what ONNX Runtime loads for it is not."""
    if has_cuda_device():
        pytest.skip("this machine has a CUDA device")
    if CUDA not in onnxruntime.get_available_providers():
        pytest.skip("this ONNX Runtime was built without CUDA")
    monkeypatch.setattr(cuda_library, "cuda_devices", lambda: 1)
    providers_module._warn_once.cache_clear()
    providers_module._gpu_failures.clear()


@pytest.mark.usefixtures("gpu_without_libraries")
def test_auto_serves_on_the_cpu_with_one_warning_where_the_cuda_libraries_are_missing(bundle: Bundle, caplog, capfd):
    sessions = [Session(bundle, "auto", threads=1) for _ in range(2)]
    assert [session.provider for session in sessions] == [CPU] * 2
    (record,) = caplog.records
    assert record.message == (
        "running on the CPU: ONNX Runtime opened CPUExecutionProvider, expected CUDAExecutionProvider; install its "
        "CUDA and cuDNN libraries: pip install 'abnn_serve[cuda]', or set ABNN_DEVICE=cpu"
    )
    assert capfd.readouterr().out == ""


@pytest.mark.usefixtures("gpu_without_libraries")
def test_cuda_without_its_libraries_says_how_to_get_them(bundle: Bundle):
    with pytest.raises(DeviceError, match=r"expected CUDAExecutionProvider; .* pip install 'abnn_serve\[cuda\]'"):
        Session(bundle, "cuda")


@pytest.mark.usefixtures("gpu_without_libraries")
def test_tensorrt_that_is_not_installed_is_an_error_and_not_cuda(bundle: Bundle, monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(
        DeviceError, match=r"TensorRT cannot run this graph: .*; install TensorRT 10 .*ABNN_DEVICE=cuda"
    ):
        Session(bundle, "tensorrt")


@pytest.mark.parametrize(
    ("placement", "wanted", "problem"),
    [
        ({CUDA: {"Conv": 9, "Relu": 3}, CPU: {"Shape": 2}}, CUDA, None),
        ({CUDA: {"Conv": 8}, CPU: {"Conv": 1, "Gemm": 2}}, CUDA, "would run 1 Conv, 2 Gemm on the CPU"),
        ({CUDA: {"Conv": 9}}, TENSORRT, "would run all arithmetic on CUDAExecutionProvider, none on TensorrtExec"),
        ({TENSORRT: {"Relu": 1}, CUDA: {"Conv": 9}}, TENSORRT, "none on TensorrtExecutionProvider"),
        ({TENSORRT: {"Conv": 8}, CUDA: {"Conv": 1}}, TENSORRT, None),
        ({CUDA: {"ReduceMean": 1}}, TENSORRT, None),
        ({CPU: {"MatMul": 1}}, TENSORRT, "would run 1 MatMul on the CPU"),
    ],
)
def test_arithmetic_elsewhere_than_asked_is_named(placement, wanted, problem):
    found = misplaced(placement, wanted)
    assert (found is None) == (problem is None)
    assert problem is None or problem in found


def test_the_cache_of_tensorrt_is_temporary_where_the_home_cannot_be_written(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert providers_module._cache_folder() == tmp_path / ".cache" / "abnn_serve" / "tensorrt"
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("HOME", str(tmp_path / "file"))
    folder = providers_module._cache_folder()
    assert folder.is_dir()
    assert folder.name.startswith("abnn-tensorrt-")
    folder.rmdir()
