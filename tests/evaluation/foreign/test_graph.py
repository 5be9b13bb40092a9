from __future__ import annotations

import onnx
import pytest

from abnn_serve.errors import ConfigError
from abnn_serve.evaluation.foreign.graph import load_graph
from tests.evaluation.foreign.conftest import small_graph


def test_missing_external_data_is_named(tmp_path):
    path = small_graph(tmp_path / "outside.onnx")
    onnx.save(onnx.load(str(path)), str(path), save_as_external_data=True, location="weights.bin", size_threshold=0)
    load_graph(path)
    whole = (tmp_path / "weights.bin").read_bytes()
    (tmp_path / "weights.bin").write_bytes(whole[:100])
    with pytest.raises(ConfigError, match=r"cannot read the weights of .*exceeds available data .*put the whole data"):
        load_graph(path)
    (tmp_path / "weights.bin").unlink()
    with pytest.raises(ConfigError, match=r"keeps its weights in weights.bin, which is missing"):
        load_graph(path)
