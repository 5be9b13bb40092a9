"""Targets of what is read from disk: bundles, Parquet files, tars and lists."""

from __future__ import annotations

import functools
import io
import tarfile
import tempfile
from pathlib import Path

import numpy as np
import onnx
import pyarrow as pa
import pyarrow.parquet as pq
from onnx import TensorProto, helper

from abnn_serve.bundle.golden import Golden, pack_golden, unpack_golden
from abnn_serve.bundle.graph_checks import check_graph
from abnn_serve.bundle.manifest import MANIFEST, Manifest
from abnn_serve.scoring.plan import SourceFile
from abnn_serve.scoring.sources.files import plan_list
from abnn_serve.scoring.sources.open import open_source
from abnn_serve.spec import Labels

LIST_TOKENS = (b"path", b"label", b"../", b"/etc", b"http://", b"::", b"\n", b'"', b"[", b"{", b"\0", b"%2e%2e/")
_LABELS = Labels(names=("cat", "dog"))
_MODELS = Path(__file__).parents[2] / "models"


def read_graph(data: bytes) -> object:
    """Check a graph."""
    return check_graph(data, "a.onnx")


def graph_seeds() -> list[bytes]:
    """Graphs with their weights inside, outside (S14), and with a branch."""
    tensor = helper.make_tensor("w", TensorProto.FLOAT, [2], [1.0, 2.0])
    value = helper.make_tensor_value_info("y", TensorProto.FLOAT, [2])
    graph = helper.make_graph([helper.make_node("Add", ["w", "w"], ["y"], domain="")], "g", [], [value], [tensor])
    whole, outside = helper.make_model(graph), helper.make_model(graph)
    outside.graph.initializer[0].data_location = TensorProto.EXTERNAL
    branch = onnx.ModelProto.FromString(whole.SerializeToString())
    branch.graph.node.append(helper.make_node("If", ["c"], ["z"], then_branch=graph, else_branch=graph))
    drift = (_MODELS / "motions-abnn" / "drift.onnx").read_bytes()
    return [*(model.SerializeToString() for model in (whole, outside, branch)), drift]


def read_golden(data: bytes) -> object:
    """Read golden vectors."""
    return unpack_golden(data, (2, 2, 3), "golden.npz")


def golden_seeds() -> list[bytes]:
    """An archive as it is written, and one that inflates (S22)."""
    golden = Golden(inputs=np.zeros((2, 2, 2, 3), np.uint8), logits=np.zeros((2, 4), np.float32))
    out = io.BytesIO()
    np.savez_compressed(out, inputs=np.zeros((100_000, 2, 2, 3), np.uint8), logits=np.zeros((100_000, 4), np.float32))
    return [pack_golden(golden), out.getvalue()]


def read_manifest(data: bytes) -> object:
    """Parse a manifest."""
    return Manifest.from_bytes(data, MANIFEST)


def manifest_seeds() -> list[bytes]:
    """The manifests of this repository's bundles."""
    return [path.read_bytes() for path in sorted(_MODELS.glob("*/bundle.json"))]


def read_parquet(data: bytes) -> object:
    """Read the rows of a Parquet file."""
    return _rows("a.parquet", data)


def parquet_seeds() -> list[bytes]:
    """Files of plain and shared values (S17), structs, and several row groups."""
    tables = [
        pa.table({"image": [b"abc", None, b"d"], "label": [0, 1, None]}),
        pa.table({"image": [bytes(10_000)] * 100, "label": ["cat"] * 100}),
        pa.table({"image": [{"bytes": b"abc", "path": "x"}] * 5, "label": ["dog"] * 5}),
    ]
    seeds = []
    for table in tables:
        for version, rows in (("1.0", 100), ("2.0", 2)):
            out = io.BytesIO()
            shared = version == "1.0"
            pq.write_table(table, out, data_page_version=version, use_dictionary=shared, row_group_size=rows)
            seeds.append(out.getvalue())
    return seeds


def read_tar(data: bytes) -> object:
    """Read the rows of a tar."""
    return _rows("a.tar", data)


def tar_seeds() -> list[bytes]:
    """Tars, packed and not, with extended headers (S17)."""
    seeds = []
    for mode, kind in (("w", tarfile.USTAR_FORMAT), ("w", tarfile.GNU_FORMAT), ("w:gz", tarfile.PAX_FORMAT)):
        out = io.BytesIO()
        with tarfile.open(fileobj=out, mode=mode, format=kind) as archive:
            for name, content in (("1.png", b"abc"), ("1.cls", b"1"), ("ü" * 60 + "/2.jpg", bytes(2_000))):
                info = tarfile.TarInfo(name)
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
        seeds.append(out.getvalue())
    return seeds


def read_list(data: bytes) -> object:
    """Plan a CSV list, or a JSON one if it begins with a brace."""
    name = "list.jsonl" if data[:1] == b"{" else "list.csv"
    return plan_list(SourceFile(address=f"/data/{name}", name=name, size=len(data)), data, _LABELS, 4)


def list_seeds() -> list[bytes]:
    """Lists, one that names files outside its folder (S23), and one that is not Unicode."""
    lines = b'{"path": "a.png", "label": "cat"}\n{"path": "b/c.png", "label": null}\n'
    return [
        b"path,label\na.png,cat\nb/c.png,7\n",
        lines,
        b"path\n/etc/shadow\nfile:///etc/passwd\n",
        b'{"path": "a.pn\xd4"}\n',
    ]


@functools.cache
def _folder() -> Path:
    return Path(tempfile.mkdtemp(prefix="abnn-fuzz-"))


def _rows(name: str, data: bytes) -> int:
    path = _folder() / name
    path.write_bytes(data)
    plan = open_source(str(path), _LABELS, max_bytes=100_000)
    return sum(1 for unit in plan.units for _ in plan.source.read(unit))
