"""A bundle as a model repository for Triton Inference Server: the same graph, and what Triton does not do with it."""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path

from abnn_serve.bundle.store import Bundle
from abnn_serve.errors import ExportError
from abnn_serve.files import atomic_write, sync_directory

MAX_BATCH = 64

LOST = (
    "decoding and limits: clients send uint8 pixels of the model's input size",
    "verification: no digest, signature or golden vector is checked when Triton loads the graph",
    "probabilities: the output is logits, without the bundle's temperature and threshold",
    "monitoring: no drift, no metrics of quality, no shadow or canary",
    "access: no API keys, no limits for each key, no error schema; Triton's own options apply",
)


def export_triton(bundle: Bundle, repository: Path) -> Path:
    """Write a bundle into a model repository, as `repository/NAME`.

    Args:
        bundle: its version becomes the version in the repository if it is a whole number, else 1.
        repository: created if it is missing; other models in it stay.

    Returns:
        The model's directory.

    Raises:
        ExportError: the bundle answers by a rule, which Triton would leave out; or the repository has this model.
    """
    manifest = bundle.manifest
    if manifest.answer:
        raise ExportError(
            f"{bundle.path} answers by a rule ({manifest.answer}), which Triton would leave out, so its card would "
            "not hold; serve it with abnn serve"
        )
    target = repository / manifest.name
    if target.exists():
        raise ExportError(f"{target} exists; delete it, or choose another repository")
    version = manifest.version if manifest.version.isdecimal() and int(manifest.version) > 0 else "1"
    repository.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(prefix=f".{manifest.name}.", dir=repository))
    try:
        (staging / version).mkdir()
        files = {
            f"{version}/model.onnx": bundle.read("model.onnx"),
            "labels.txt": "".join(f"{name}\n" for name in bundle.labels.names).encode(),
            "config.pbtxt": config(bundle).encode(),
        }
        for name, data in files.items():
            with atomic_write(staging / name) as file:
                file.write(data)
        staging.chmod(0o755)
        sync_directory(staging)
        staging.rename(target)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return target


def config(bundle: Bundle) -> str:
    """The text of `config.pbtxt`: names, types and shapes of the graph, dynamic batching, and the bundle's digest."""
    manifest = bundle.manifest
    dimensions = ", ".join(map(str, manifest.input.shape))
    return f"""name: {json.dumps(manifest.name)}
backend: "onnxruntime"
max_batch_size: {MAX_BATCH}
input [
  {{ name: "{manifest.input.modality}" data_type: TYPE_UINT8 dims: [ {dimensions} ] }}
]
output [
  {{ name: "logits" data_type: TYPE_FP32 dims: [ {len(bundle.labels)} ] label_filename: "labels.txt" }}
]
dynamic_batching {{ }}
parameters {{ key: "abnn_digest" value: {{ string_value: "{bundle.digest}" }} }}
parameters {{ key: "abnn_version" value: {{ string_value: {json.dumps(manifest.version)} }} }}
"""
