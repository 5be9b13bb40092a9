"""A bundle's files with some of them replaced, and a manifest that describes them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
from onnx import helper, numpy_helper

from abnn_serve.bundle.golden import Golden, pack_golden
from abnn_serve.bundle.manifest import FileEntry, Manifest
from abnn_serve.bundle.store import Bundle, pack_json, write_bundle
from abnn_serve.spec import Labels


def contents(bundle: Bundle) -> dict[str, bytes]:
    """All files of a bundle except bundle.json."""
    return {name: bundle.read(name) for name in bundle.manifest.files}


def described(bundle: Bundle, **changes: object) -> Callable[[dict[str, FileEntry]], Manifest]:
    """The manifest of other files, for `write_bundle`."""
    return lambda files: replace(bundle.manifest, files=files, **changes)


def write_repeated(bundle: Bundle, path: Path, times: int) -> Bundle:
    """A bundle in fp32 of so many times the classes: its graph gives the logits again and again."""
    graph = onnx.load_from_string(bundle.read("model.onnx"))
    (output,) = graph.graph.output
    for node in graph.graph.node:
        node.output[:] = ["once" if name == output.name else name for name in node.output]
    graph.graph.initializer.append(numpy_helper.from_array(np.asarray([1, times]), "times"))
    graph.graph.node.append(helper.make_node("Tile", ["once", "times"], [output.name]))
    names = tuple(f"{name} {index}" for index in range(times) for name in bundle.labels.names)
    output.type.tensor_type.shape.dim[1].dim_value = len(names)
    model = graph.SerializeToString()
    golden = Golden(inputs=bundle.golden.inputs, logits=np.tile(bundle.golden.logits, times))
    card = replace(bundle.card, model_sha256=hashlib.sha256(model).hexdigest(), drift=None)
    parts = {"labels.json": pack_json(Labels(names=names)), "card.json": pack_json(card)}
    files = {"model.onnx": model, "golden.npz": pack_golden(golden), **parts}
    return write_bundle(path, files, described(bundle, name=path.name))
