"""Exports target and substitute from torch as one ONNX graph, from uint8 pixels to logits."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator

import onnx
import torch
from onnx_ir.passes.common import ClearMetadataAndDocStringPass, DeduplicateHashedInitializersPass
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from abnn_serve.errors import ExportError, one_line
from abnn_serve.export.passes import Stage, run_passes
from abnn_serve.lab.abnn.network import ServedNetwork
from abnn_serve.spec import InputSpec

OPSET = 20


def export_graph(network: nn.Module, spec: InputSpec, pixel_type: str = "uint8") -> bytes:
    """Serialise a network in eval mode as an ONNX model with the input `image` or `video` and the output `logits`.

    Raises:
        ExportError: as `export_stages`.
    """
    return export_stages(network, spec, pixel_type)[-1].model


def export_stages(network: nn.Module, spec: InputSpec, pixel_type: str = "uint8") -> list[Stage]:
    """The model as torch exports it, and after each graph pass; the last stage is the one to serve.

    Args:
        network: float pixels in [0, 1] to logits.
        spec: of the input.
        pixel_type: dtype of the graph's input, uint8, or float32 in the same units.

    Raises:
        ExportError: a layer uses batch statistics, so that a sample's logits would depend on its batch, or the network
            has an operation that cannot be exported.
    """
    for name, module in network.named_modules():
        if isinstance(module, _BatchNorm) and module.running_mean is None:
            raise ExportError(
                f"layer {name!r} uses batch statistics, so a sample's logits would depend on its batch; "
                "train with track_running_stats=True"
            )
    served = ServedNetwork(network).eval().cpu()
    example = torch.zeros(
        2, *spec.shape, dtype=getattr(torch, pixel_type)
    )  # torch would export a batch of 1 as a constant
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
    except Exception as error:  # the exporter has its own exceptions, and the network raises any
        raise ExportError(f"torch cannot export this network: {one_line(error)}") from error
    if program is None:
        raise ExportError("torch exported nothing")
    ClearMetadataAndDocStringPass()(program.model)  # they hold stack traces with local paths
    DeduplicateHashedInitializersPass()(program.model)  # so that the halves of a mixture share a substitute's nodes
    stages = run_passes(program.model)
    model = onnx.load_from_string(stages[-1].model)
    onnx.checker.check_model(model)
    if (version := model.opset_import[0].version) != OPSET:
        raise ExportError(f"torch exported opset {version}, expected {OPSET}; install a newer torch and onnxscript")
    return stages


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Hide the exporter's progress lines and deprecation warnings."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
