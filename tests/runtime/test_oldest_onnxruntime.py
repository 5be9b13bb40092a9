"""The CUDA path on the oldest onnxruntime-gpu that is allowed, over the stub; downloads it."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib

import pytest

from abnn_serve.runtime.engine import CPU
from abnn_serve.runtime.providers import misplaced
from tests.cuda_stub.build import build, missing_tools
from tests.cuda_stub.process import ROOT, Stub
from tests.runtime.test_cuda_without_a_gpu import BUNDLE_GRAPHS, CUDA, HANDLES, graphs  # noqa: F401

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def oldest(tmp_path_factory) -> Stub:
    """Processes with that version, whose CUDA is 12; skips if it cannot be installed."""
    if missing := missing_tools():
        pytest.skip(f"the stub of the CUDA libraries needs {' and '.join(missing)}")
    folder = tmp_path_factory.mktemp("oldest")
    dependencies = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    (floor,) = {match[1] for line in dependencies if (match := re.match(r"onnxruntime-gpu>=([\d.]+);", line))}
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", folder / "packages"]
    done = subprocess.run([*install, f"onnxruntime-gpu=={floor}"], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"cannot install onnxruntime-gpu {floor}: {done.stderr.splitlines()[-1:]}")
    provider = folder / "packages" / "onnxruntime" / "capi" / "libonnxruntime_providers_cuda.so"
    return Stub(build(provider, folder / "stub"), {"PYTHONPATH": f"{folder / 'packages'}:{ROOT}"})


@pytest.mark.parametrize("name", BUNDLE_GRAPHS)
def test_every_shipped_graph_opens_without_cuda_graphs_and_computes_on_cuda(name, oldest, graphs):  # noqa: F811
    answer = oldest.ask("opened", graphs[name], "cuda")
    assert answer["warnings"] == []
    assert answer["graphs"] is False  # this version replays wrong data
    assert misplaced(answer["placement"], CUDA) is None


@pytest.mark.parametrize("name", BUNDLE_GRAPHS)
def test_batches_run_at_one_padded_size(name, oldest, graphs):  # noqa: F811
    ran = oldest.ask("replays", graphs[name])["ran"]
    assert not {"cudaGraphLaunch", "cudaStreamBeginCapture"} & set(ran)
    assert not [call for call in ran if call.startswith("cudnnBackend") and call != "cudnnBackendExecute"]


def test_no_request_makes_a_handle_from_any_thread(oldest, graphs):  # noqa: F811
    for calls in oldest.ask("requests", graphs["cifar10-abnn-robust fp32"]).values():
        assert not (set(HANDLES) - {"launches"}) & set(calls)


def test_an_engine_that_goes_returns_its_memory(oldest, graphs):  # noqa: F811
    during, *after = oldest.ask("memory", graphs["cifar10-abnn-robust fp32"])
    assert len(set(after)) == 1
    assert after[0] < 0.1 * during  # without CUDA graphs there is one batch size, so less to return


def test_an_engine_opens_where_pages_cannot_be_locked(oldest, graphs):  # noqa: F811
    answer = oldest.ask("opened", graphs["motions-abnn fp32"], "cuda", STUB_PINS_NOTHING="1")
    assert "error" not in answer


@pytest.mark.parametrize("function", ["cudaMalloc", "cudnnCreate", "cublasCreate_v2"])
def test_auto_serves_on_the_cpu_with_one_warning_whatever_fails_while_cuda_opens(function, oldest, graphs):  # noqa: F811
    answer = oldest.ask("opened", graphs["motions-abnn fp32"], "auto", STUB_FAILS=function)
    assert list(answer["placement"]) == [CPU]
    (warning,) = answer["warnings"]
    assert warning.startswith("running on the CPU: ")


def test_a_lost_device_is_told_from_other_errors(oldest, graphs):  # noqa: F811
    assert oldest.ask("lost_device", graphs["motions-abnn fp32"])["error"][0] == "DeviceLostError"
