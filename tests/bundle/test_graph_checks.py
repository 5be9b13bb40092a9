from __future__ import annotations

from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

from abnn_serve.bundle.graph_checks import check_graph
from abnn_serve.bundle.store import Bundle, write_bundle
from abnn_serve.errors import BundleIntegrityError
from tests.bundle.rewriting import contents, described


def _external() -> onnx.TensorProto:
    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[4], data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value="keys.txt")
    return tensor


def _model(*nodes: onnx.NodeProto, initializer: onnx.TensorProto | None = None) -> onnx.ModelProto:
    value = helper.make_tensor_value_info("y", TensorProto.FLOAT, [4])
    return helper.make_model(helper.make_graph(nodes, "g", [], [value], [initializer] if initializer else []))


def _sparse() -> onnx.NodeProto:
    indices = helper.make_tensor("i", TensorProto.INT64, [4], [0, 1, 2, 3])
    return helper.make_node(
        "Constant", [], ["y"], sparse_value=onnx.SparseTensorProto(values=_external(), indices=indices, dims=[4])
    )


def _function() -> onnx.ModelProto:
    model = _model(helper.make_node("Twice", ["x"], ["y"]))
    model.functions.append(
        helper.make_function("", "Twice", ["x"], ["y"], [helper.make_node("Add", ["x", "x"], ["y"])], [])
    )
    return model


def _branch() -> onnx.NodeProto:
    body = helper.make_graph([], "body", [], [])
    return helper.make_node("If", ["c"], ["y"], then_branch=body, else_branch=body)


HOSTILE = {
    "an initializer": (_model(initializer=_external()), "weights outside the file"),
    "a constant": (_model(helper.make_node("Constant", [], ["y"], value=_external())), "weights outside the file"),
    "a sparse constant": (_model(_sparse()), "weights outside the file"),
    "a branch": (_model(_branch()), "a node with a subgraph"),
    "a loop without a body": (_model(helper.make_node("Loop", [], ["y"])), "the operator Loop"),
    "another domain": (
        _model(helper.make_node("Gelu", ["x"], ["y"], domain="com.microsoft")),
        "the operator Gelu of com",
    ),
    "a function": (_function(), "functions"),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_graph_that_is_not_self_contained_is_refused(kind):
    model, message = HOSTILE[kind]
    with pytest.raises(BundleIntegrityError, match=f"a.onnx has {message}.*; export the bundle again"):
        check_graph(model.SerializeToString(), "a.onnx")


def test_weights_outside_the_file_are_refused_where_only_their_place_says_so():
    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[4], data_location=TensorProto.EXTERNAL)
    with pytest.raises(BundleIntegrityError, match="weights outside the file"):
        check_graph(_model(initializer=tensor).SerializeToString(), "a.onnx")


@pytest.mark.parametrize("data", [b"", b"\x08\x0a", b"<net/>", b"\x3a\x05\x0a", b"\x38\x01", b"\x12\x06ORTM\x3a\x00"])
def test_bytes_that_are_no_graph_are_refused(data):
    with pytest.raises(BundleIntegrityError, match=r"a\.onnx has"):
        check_graph(data, "a.onnx")


def test_a_tag_whose_upper_bits_a_parser_may_drop_hides_nothing():
    location = b"\xf0\x80\x80\x80\x10\x01"  # data_location = 1, with the 33rd bit of the tag set
    model = b"\x3a" + bytes([len(location) + 2]) + b"\x2a" + bytes([len(location)]) + location
    with pytest.raises(BundleIntegrityError, match="weights outside the file"):
        check_graph(model, "a.onnx")


def test_every_graph_of_this_repository_passes():
    files = sorted(Path(__file__).parents[2].glob("models/*/*.onnx"))
    assert len(files) > 5
    for file in files:
        check_graph(file.read_bytes(), str(file))


def test_a_bundle_whose_weights_are_another_file_is_not_loaded(bundle: Bundle, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model = onnx.load_from_string(bundle.read("model.onnx"))
    weights = max(model.graph.initializer, key=lambda tensor: len(tensor.raw_data))
    Path("keys.txt").write_bytes(weights.raw_data)
    weights.ClearField("raw_data")
    weights.data_location = TensorProto.EXTERNAL
    weights.external_data.add(key="location", value="keys.txt")
    files = {**contents(bundle), "model.onnx": model.SerializeToString()}
    with pytest.raises(BundleIntegrityError, match=r"model\.onnx has weights outside the file"):
        write_bundle(tmp_path / "b", files, described(bundle))


def test_drift_is_checked_too(bundle: Bundle, tmp_path):
    drift = _model(helper.make_node("Constant", [], ["y"], value=_external()))
    files = {**contents(bundle), "drift.onnx": drift.SerializeToString()}
    with pytest.raises(BundleIntegrityError, match=r"drift\.onnx has weights outside the file"):
        write_bundle(tmp_path / "b", files, described(bundle))
