"""Torch to one ONNX graph: uint8 pixels in, logits out, target and substitute together."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator

import onnx
import torch
from onnx_ir.passes.common import ClearMetadataAndDocStringPass
from torch import Tensor, nn

from abnn_serve.errors import ExportError, one_line
from abnn_serve.lab.adaptive_norm import AdaptiveNorm
from abnn_serve.lab.export.passes import Stage, run_passes
from abnn_serve.spec import InputSpec

OPSET = 20


class ServedNetwork(nn.Module):
    """A pixel network behind the served input: uint8 (N, [T,] H, W, 3) to float32 logits (N, classes)."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, pixels: Tensor) -> Tensor:
        channels_first = pixels.permute(0, pixels.dim() - 1, *range(1, pixels.dim() - 1))
        logits: Tensor = self.network(channels_first.float() / 255.0)
        return logits.float()


def export_graph(network: nn.Module, spec: InputSpec) -> bytes:
    """The serialised ONNX model of a network in eval mode: input `image` or `video`, output `logits`."""
    return export_stages(network, spec)[-1].model


def export_stages(network: nn.Module, spec: InputSpec) -> list[Stage]:
    """The same model as torch exports it and after each graph pass; the last is the one to serve.

    Raises:
        ExportError: batch statistics, which would make an answer depend on its neighbours, or an operation that
            cannot be exported.
    """
    for name, module in network.named_modules():
        if isinstance(module, AdaptiveNorm) and module.scope == "batch":
            raise ExportError(
                f"layer {name!r} takes statistics over the batch, so answers would depend on their neighbours; "
                "train with the sample scope"
            )
    served = ServedNetwork(network).eval().cpu()
    example = torch.zeros(2, *spec.shape, dtype=torch.uint8)  # a batch of 1 would be taken for a constant
    try:
        with _quiet(), torch.no_grad():
            program = torch.onnx.export(
                served,
                (example,),
                dynamo=True,
                dynamic_shapes={"pixels": {0: torch.export.Dim("batch", min=1, max=65_536)}},
                input_names=[spec.modality],
                output_names=["logits"],
                opset_version=OPSET,
                verbose=False,
            )
    except Exception as error:  # the exporter raises classes of its own, and what the network raised
        raise ExportError(f"torch cannot export this network: {one_line(error)}") from error
    if program is None:
        raise ExportError("torch exported nothing")
    ClearMetadataAndDocStringPass()(program.model)  # stack traces of the machine that exported
    stages = run_passes(program.model)
    onnx.checker.check_model(stages[-1].model)
    return stages


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporter's progress lines and deprecation warnings from the user."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
