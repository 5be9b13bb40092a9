"""An ONNX classifier as a torch network, compared with ONNX Runtime on real images."""

from __future__ import annotations

import importlib.util
import warnings
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from abnn_serve.errors import ConfigError, one_line
from abnn_serve.evaluation.foreign.classifier import OnnxClassifier
from abnn_serve.evaluation.foreign.differentiable import STEPS, differentiable, operators
from abnn_serve.evaluation.foreign.graph import softmax_before
from abnn_serve.evaluation.foreign.signature import Signature
from abnn_serve.lab.abnn.network import PixelNetwork, ServedNetwork, torch_logits

_TOLERANCE = 1e-3  # of the largest logit
_SAME_CLASS = 0.8  # share of images, where a value may be rounded the other way
_BY_QUERIES = "attack by queries, which need no gradients: --threat blackbox"


@dataclass(frozen=True, slots=True, kw_only=True)
class Differentiable:
    """A torch network that stands for an ONNX file.

    Attributes:
        network: pixels in [0, 1] to logits.
        error: largest difference of a logit from ONNX Runtime.
        same_class: share of the compared images with the same class.
        images: number of compared images.
        is_straight_through: it rounds, which has no gradient.
    """

    network: PixelNetwork
    error: float
    same_class: float
    images: int
    is_straight_through: bool


def to_torch(classifier: OnnxClassifier, images: NDArray[np.uint8]) -> Differentiable:
    """Convert a classifier, and compare its logits with ONNX Runtime's.

    Args:
        classifier: the ONNX file.
        images: real images, uint8 (N, H, W, 3).

    Raises:
        ConfigError: the converter is missing or lacks an operator, or the logits differ.
    """
    if importlib.util.find_spec("onnx2fx") is None:
        raise ConfigError(
            "gradients of an ONNX file need onnx2fx; install it with: pip install 'abnn_serve[foreign]', or "
            f"{_BY_QUERIES}"
        )
    signature = classifier.signature
    logits = softmax_before(classifier.model, signature.output) or signature.output
    graph = differentiable(classifier.model, logits)
    is_straight_through = not operators(graph).isdisjoint(STEPS)
    body = _Body(_converted(graph, str(classifier.path)), signature)
    preprocess = classifier.preprocess
    mean, std = ((0.0,) * 3, (1 / 255,) * 3) if signature.dtype == "uint8" else (preprocess.mean, preprocess.std)
    network = PixelNetwork(body, mean, std).float().eval().requires_grad_(requires_grad=False)
    return _compared(classifier, network, images, is_straight_through=is_straight_through)


def _converted(graph: object, path: str) -> nn.Module:
    from onnx2fx import convert
    from onnx2fx.exceptions import UnsupportedOpError

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            module: nn.Module = convert(graph)
    except UnsupportedOpError as error:
        name = f"{error.domain}.{error.op_type}" if error.domain else error.op_type
        raise ConfigError(f"{path} uses the operator {name}, which has no gradient here; {_BY_QUERIES}") from None
    except Exception as error:  # the converter raises what torch and onnx raise
        raise ConfigError(f"{path} cannot be converted to torch ({one_line(error)}); {_BY_QUERIES}") from None
    return module


class _Body(nn.Module):
    """A converted graph whose input is preprocessed NCHW, and whose output is one tensor of logits."""

    def __init__(self, module: nn.Module, signature: Signature) -> None:
        super().__init__()
        self.module = module
        self.layout, self.batch = signature.layout, signature.batch

    def forward(self, x: Tensor) -> Tensor:
        if self.layout != "NCHW":
            x = x.permute(0, 2, 3, 1)
        if self.layout == "flat":
            x = x.flatten(1)
        return self._run(x) if self.batch is None else self._in_fixed_batches(x, self.batch)

    def _in_fixed_batches(self, x: Tensor, batch: int) -> Tensor:
        missing = -len(x) % batch
        padded = torch.cat([x, x[-1:].expand(missing, *x.shape[1:])]) if missing else x
        return torch.cat([self._run(part) for part in torch.split(padded, batch)])[: len(x)]

    def _run(self, x: Tensor) -> Tensor:
        out = self.module(x)
        if isinstance(out, dict):
            out = next(iter(out.values()))
        logits: Tensor = out[0] if isinstance(out, (tuple, list)) else out
        return logits


def _compared(
    classifier: OnnxClassifier, network: PixelNetwork, images: NDArray[np.uint8], *, is_straight_through: bool
) -> Differentiable:
    expected = classifier.logits(images)
    try:
        logits = torch_logits(ServedNetwork(network).eval(), images)
    except Exception as error:  # converted code raises what torch raises
        raise ConfigError(f"{classifier.path} does not run in torch ({one_line(error)}); {_BY_QUERIES}") from None
    if classifier.signature.is_probability:
        expected, logits = np.exp(expected), torch.softmax(torch.from_numpy(logits), dim=1).numpy()
    difference = float(np.abs(logits - expected).max())
    same_class = float((logits.argmax(axis=1) == expected.argmax(axis=1)).mean())
    limit = _TOLERANCE * max(1.0, float(np.abs(expected).max()))
    if (same_class < _SAME_CLASS) if is_straight_through else not difference <= limit:
        raise ConfigError(
            f"the torch form of {classifier.path} differs from ONNX Runtime by {difference:.2g} and gives the same "
            f"class to {same_class:.0%} of {len(images)} images; {_BY_QUERIES}"
        )
    return Differentiable(
        network=network,
        error=difference,
        same_class=same_class,
        images=len(images),
        is_straight_through=is_straight_through,
    )
