"""An ONNX classifier in ONNX Runtime, from uint8 pixels to logits."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray

from abnn_serve.arrays import batch_slices
from abnn_serve.errors import ConfigError, one_line
from abnn_serve.evaluation.foreign.graph import load_graph
from abnn_serve.evaluation.foreign.preprocess import Preprocess
from abnn_serve.evaluation.foreign.signature import Signature, read_signature

_BATCH = 50
_TINY = np.finfo(np.float32).tiny


@dataclass(frozen=True, slots=True)
class OnnxClassifier:
    """An ONNX file that classifies images.

    Attributes:
        path: the file.
        model: its graph, with external data.
        session: the file in ONNX Runtime on the CPU.
        signature: its input and output.
        preprocess: applied to float inputs; for uint8 the pixels are the input.
    """

    path: Path
    model: onnx.ModelProto
    session: ort.InferenceSession
    signature: Signature
    preprocess: Preprocess

    def logits(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """uint8 (N, H, W, 3) to logits, float32 (N, classes); of a Softmax, the logarithms of its probabilities."""
        size = self.signature.batch or _BATCH
        return np.concatenate([self._run(pixels[batch]) for batch in batch_slices(len(pixels), size)])

    def _run(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        count, batch = len(pixels), self.signature.batch
        if batch and count < batch:
            pixels = np.concatenate([pixels, np.repeat(pixels[-1:], batch - count, axis=0)])
        feed = {self.signature.input: self._input(pixels)}
        scores: NDArray[np.float32] = self.session.run([self.signature.output], feed)[0][:count].astype(np.float32)
        return np.log(np.maximum(scores, _TINY)) if self.signature.is_probability else scores

    def _input(self, pixels: NDArray[np.uint8]) -> NDArray[np.generic]:
        values: NDArray[np.generic] = pixels
        if self.signature.dtype != "uint8":
            values = self.preprocess.apply(pixels).astype(self.signature.dtype)
        if self.signature.layout == "flat":
            return values.reshape(len(values), -1)
        return values.transpose(0, 3, 1, 2) if self.signature.layout == "NCHW" else values

    @property
    def file_sha256(self) -> str:
        """sha256 of the file, without external data."""
        return hashlib.sha256(self.path.read_bytes()).hexdigest()

    @property
    def digest(self) -> str:
        """sha256 of everything that decides an answer: the graph with its weights, the output and the preprocessing."""
        settings = f"{self.signature} {self.preprocess}".encode()
        return hashlib.sha256(self.model.SerializeToString(deterministic=True) + settings).hexdigest()


def open_classifier(
    path: Path,
    preprocess: Preprocess,
    *,
    output: str | None = None,
    size: tuple[int, int] | None = None,
    threads: int = 1,
) -> OnnxClassifier:
    """Open an ONNX file.

    Args:
        path: the file; external data lies beside it.
        preprocess: what the model expects of its input.
        output: name of the output, where there are several.
        size: height and width in pixels, where the graph leaves them open.
        threads: threads of a run.

    Raises:
        ConfigError: not an ONNX classifier of images, or ONNX Runtime cannot load it.
    """
    model = load_graph(path)
    options = ort.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = threads, 4  # every error is raised
    try:
        session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime's exceptions have no common base class
        raise ConfigError(f"ONNX Runtime cannot load {path}: {one_line(error)}") from None
    signature = read_signature(path, model, session, output, size)
    if signature.dtype == "uint8" and preprocess != Preprocess():
        raise ConfigError(f"{path} takes uint8 pixels, which need no preprocessing; omit --preprocess")
    return OnnxClassifier(path, model, session, signature, preprocess)
