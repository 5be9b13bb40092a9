"""The model repository for Triton: its configuration, its graph, and bundles that it cannot hold."""

from __future__ import annotations

import re

import numpy as np
import onnxruntime
import pytest
from typer.testing import CliRunner

from abnn_serve.bundle.store import load_bundle
from abnn_serve.cli.main import app
from abnn_serve.errors import ExportError
from abnn_serve.export.triton import LOST, config, export_triton
from tests.service.conftest import write_version


def test_the_repository_has_triton_s_layout_and_the_bundle_s_graph(bundle, tmp_path):
    target = export_triton(bundle, tmp_path / "repository")
    assert sorted(str(path.relative_to(target)) for path in target.rglob("*") if path.is_file()) == [
        "1/model.onnx",
        "config.pbtxt",
        "labels.txt",
    ]
    assert (target / "1" / "model.onnx").read_bytes() == bundle.read("model.onnx")
    assert (target / "labels.txt").read_text().split() == list(bundle.labels.names)
    assert [path.name for path in target.parent.iterdir()] == ["shapes"]
    with pytest.raises(ExportError, match="shapes exists"):
        export_triton(bundle, tmp_path / "repository")


@pytest.mark.parametrize("kind", ["images", "videos"])
def test_the_configuration_names_the_inputs_and_outputs_of_the_graph(bundle, video_bundle, kind):
    chosen = {"images": bundle, "videos": video_bundle}[kind]
    text = config(chosen)
    session = onnxruntime.InferenceSession(chosen.read("model.onnx"), providers=["CPUExecutionProvider"])
    for port, block, kind_of_data in (
        (session.get_inputs()[0], "input", "TYPE_UINT8"),
        (session.get_outputs()[0], "output", "TYPE_FP32"),
    ):
        (name, data_type, dimensions) = re.search(
            rf'^{block} \[\n  \{{ name: "(\w+)" data_type: (\w+) dims: \[ ([\d, ]+) \]', text, re.MULTILINE
        ).groups()
        assert (name, data_type) == (port.name, kind_of_data)
        assert [int(size) for size in dimensions.split(",")] == port.shape[1:]
    logits = session.run(["logits"], {session.get_inputs()[0].name: chosen.golden.inputs})[0]
    assert np.abs(logits - chosen.golden.logits).max() < 1e-3
    assert chosen.digest in text


def test_the_configuration_is_one_of_triton_s_schema(bundle):
    pytest.importorskip("grpc", reason="needs tritonclient[grpc]")
    from google.protobuf import text_format
    from tritonclient.grpc import model_config_pb2 as schema

    parsed = text_format.Parse(config(bundle), schema.ModelConfig())
    assert (parsed.name, parsed.backend, parsed.max_batch_size) == ("shapes", "onnxruntime", 64)
    assert parsed.HasField("dynamic_batching")
    assert parsed.output[0].label_filename == "labels.txt"
    assert parsed.parameters["abnn_digest"].string_value == bundle.digest


@pytest.mark.parametrize(("version", "directory"), [("7", "7"), ("0", "1"), ("2027-01", "1")])
def test_a_version_that_is_no_number_becomes_1(bundle, tmp_path, version, directory):
    named = write_version(load_bundle(bundle.path), tmp_path / "bundle", version)
    assert (export_triton(named, tmp_path / "repository") / directory / "model.onnx").is_file()


def test_a_bundle_with_an_answer_rule_is_refused(masks_bundle, tmp_path):
    with pytest.raises(ExportError, match="answers by a rule"):
        export_triton(masks_bundle, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_the_command_takes_a_bundle_and_says_what_is_lost(bundle, tmp_path):
    result = CliRunner().invoke(app, ["export", str(bundle.path), "--triton", str(tmp_path / "repository")])
    assert result.exit_code == 0, result.output
    assert all(loss in result.output for loss in LOST)
    missing = CliRunner().invoke(app, ["export", "run"])
    assert "--out or --data is missing" in str(missing.exception)
