from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

import abnn_serve.runtime.providers as providers_module
from abnn_serve.bundle.golden import Golden, pack_golden
from abnn_serve.bundle.store import Bundle, load_bundle, pack_json, write_bundle
from abnn_serve.errors import BundleIntegrityError, DeviceError, InputShapeError
from abnn_serve.hardware import has_cuda_device
from abnn_serve.runtime.cuda import CudaEngine
from abnn_serve.runtime.session import Session


@pytest.fixture(scope="module")
def session(bundle: Bundle) -> Session:
    return Session(bundle, "cpu", threads=1)


def _with(bundle: Bundle, path: Path, **files: bytes) -> Bundle:
    """The bundle with other contents, rightly declared."""
    contents = {name: bundle.read(name) for name in bundle.manifest.files} | files
    measured = replace(bundle.card, model_sha256=hashlib.sha256(contents["model.onnx"]).hexdigest())
    contents["card.json"] = pack_json(measured)
    return write_bundle(path, contents, lambda entries: replace(bundle.manifest, files=entries))


def _graph(name: str = "image", dtype: int = TensorProto.UINT8, batch: object = "batch", classes: int = 3) -> bytes:
    """A graph of another signature: the mean over all pixels, for every class."""
    nodes = [
        helper.make_node("Cast", [name], ["f"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["f", "axes"], ["m"], keepdims=0),
        helper.make_node("Unsqueeze", ["m", "one"], ["u"]),
        helper.make_node("Expand", ["u", "shape"], ["logits"]),
    ]
    constants = [
        helper.make_tensor("axes", TensorProto.INT64, [3], [1, 2, 3]),
        helper.make_tensor("one", TensorProto.INT64, [1], [1]),
        helper.make_tensor("shape", TensorProto.INT64, [2], [1, classes]),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info(name, dtype, [batch, 32, 32, 3])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [batch, classes])],
        constants,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10).SerializeToString()


def test_logits_are_those_of_the_golden_vectors(session, bundle):
    assert np.abs(session.run(bundle.golden.inputs) - bundle.golden.logits).max() < 1e-4
    assert session.provider == "CPUExecutionProvider"


def test_a_batch_larger_than_the_largest_run_is_split(session, val_data):
    images = np.concatenate([val_data.images] * 3)
    assert session.run(images).shape == (len(images), 3)


@pytest.mark.parametrize(
    "images",
    [
        np.zeros((1, 32, 32, 3), np.float32),
        np.zeros((32, 32, 3), np.uint8),
        np.zeros((1, 3, 32, 32), np.uint8),
        np.zeros((0, 32, 32, 3), np.uint8),
    ],
)
def test_input_of_another_shape_or_dtype_is_refused(session, images):
    with pytest.raises(InputShapeError, match=r"expected uint8 \(N, 32, 32, 3\), N >= 1"):
        session.run(images)


@pytest.mark.parametrize(
    ("graph", "message"),
    [
        ({"name": "pixels"}, r"has the inputs .*pixels"),
        ({"dtype": TensorProto.FLOAT}, r"has the inputs image float32"),
        ({"batch": 2}, r"image uint8 \(2, 32, 32, 3\), expected image uint8 \(N, 32, 32, 3\) with a dynamic batch"),
        ({"classes": 4}, "has the outputs"),
    ],
)
def test_a_graph_with_another_signature_is_refused(bundle, tmp_path, graph, message):
    other = _with(bundle, tmp_path / "other", **{"model.onnx": _graph(**graph)})
    with pytest.raises(BundleIntegrityError, match=message):
        Session(other, "cpu")


def test_a_graph_with_other_logits_fails_the_golden_replay(bundle, tmp_path):
    other = _with(bundle, tmp_path / "other", **{"model.onnx": _graph()})
    with pytest.raises(BundleIntegrityError, match=r"logits on CPUExecutionProvider differ from the golden logits by "):
        Session(other, "cpu")


def test_golden_logits_that_are_not_numbers_fail_too(bundle, tmp_path):
    golden = Golden(inputs=bundle.golden.inputs, logits=np.full_like(bundle.golden.logits, np.nan))
    other = _with(bundle, tmp_path / "other", **{"golden.npz": pack_golden(golden)})
    with pytest.raises(BundleIntegrityError, match="differ from the golden logits by nan"):
        Session(other, "cpu")


def test_a_graph_that_onnx_runtime_cannot_load_is_refused(bundle, tmp_path):
    broken = onnx.load_from_string(_graph())
    broken.graph.node[0].op_type = "NoSuchOperator"
    other = _with(bundle, tmp_path / "other", **{"model.onnx": broken.SerializeToString()})
    with pytest.raises(BundleIntegrityError, match="cannot load"):
        Session(other, "cpu")


@pytest.mark.skipif(has_cuda_device(), reason="this machine has a CUDA device")
def test_cuda_where_there_is_none_says_how_to_fix_it(bundle):
    with pytest.raises(
        DeviceError, match="ABNN_DEVICE is 'cuda' but this machine has no CUDA device; set ABNN_DEVICE=cpu"
    ):
        Session(bundle, "cuda")


@pytest.mark.skipif(has_cuda_device(), reason="this machine has a CUDA device")
def test_auto_falls_back_to_the_cpu_with_one_warning(bundle, caplog):
    providers_module._warn_once.cache_clear()
    assert [Session(bundle, "auto").provider for _ in range(2)] == ["CPUExecutionProvider"] * 2
    assert [record.message for record in caplog.records] == ["running on the CPU: this machine has no CUDA device"]


def test_openvino_gives_the_logits_of_onnx_runtime_at_any_batch(session, bundle, val_data):
    other = Session(bundle, "openvino", threads=1)
    assert other.provider == "OpenVINO"
    for count in (1, 7, 8, 9, 70):
        images = np.resize(val_data.images, (count, *val_data.images.shape[1:]))
        np.testing.assert_allclose(other.run(images), session.run(images), atol=1e-4)


def test_openvino_that_is_not_installed_says_how_to_get_it(bundle, monkeypatch):
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(
        DeviceError, match=r"not installed; pip install 'abnn_serve\[openvino\]', or set ABNN_DEVICE=cpu"
    ):
        Session(bundle, "openvino")


def test_the_placement_counts_the_nodes_of_each_kind(session, bundle):
    kinds = [node.op_type for node in onnx.load_from_string(bundle.read("model.onnx")).graph.node]
    (found,) = session.placement.values()
    assert found["Conv"] == kinds.count("Conv") > 0


@pytest.mark.gpu
def test_cuda_runs_all_arithmetic_and_gives_the_logits_of_the_cpu_at_any_batch(session, bundle, val_data):
    cuda = Session(bundle, "cuda")
    assert next(iter(cuda.placement)) == "CUDAExecutionProvider"
    for count in (1, 3, 64, 70, 2):
        images = np.resize(val_data.images, (count, *val_data.images.shape[1:]))
        np.testing.assert_allclose(cuda.run(images), session.run(images), atol=1e-3)


@pytest.mark.gpu
def test_the_default_network_is_captured_in_cuda_graphs(bundle):
    assert CudaEngine(bundle.read("model.onnx")).graphs


def test_a_bundle_on_another_place_is_the_same(bundle, tmp_path):
    moved = load_bundle(shutil.copytree(bundle.path, tmp_path / "elsewhere"))
    assert moved.digest == bundle.digest
    assert np.array_equal(
        Session(moved, "cpu", 1).run(bundle.golden.inputs), Session(bundle, "cpu", 1).run(bundle.golden.inputs)
    )


def _written_to_home(bundle, home, **environment):
    """Files that opening a bundle leaves in the home directory."""
    code = f"from abnn_serve import Predictor; Predictor.open({str(bundle.path)!r}, device='cpu')"
    env = {**os.environ, "HOME": str(home), "PYTHONPATH": str(Path(__file__).parents[2]), **environment}
    subprocess.run([sys.executable, "-c", code], env=env, check=True)
    return [path for path in home.rglob("*") if path.is_file()]


def test_opening_a_bundle_records_no_usage_data(bundle, tmp_path, monkeypatch):
    monkeypatch.delenv("ORT_DISABLE_TELEMETRY", raising=False)
    for name in ("with", "without"):
        (tmp_path / name).mkdir()
    if not _written_to_home(bundle, tmp_path / "with", ORT_DISABLE_TELEMETRY="0"):
        pytest.skip("this ONNX Runtime has no telemetry")
    assert _written_to_home(bundle, tmp_path / "without") == []
