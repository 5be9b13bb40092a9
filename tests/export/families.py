"""Runs of networks with random weights: surgery and export are under test, not accuracy."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import torch

from abnn_serve.export.passes import Stage
from abnn_serve.lab.abnn.adaptive_norm import EPS, Form, channel_statistics
from abnn_serve.lab.abnn.network import AdaptiveNetwork
from abnn_serve.lab.data.dataset import ImageData
from abnn_serve.lab.training.assemble import assemble
from abnn_serve.lab.training.batches import to_input
from abnn_serve.lab.training.recipes import RECIPES
from abnn_serve.lab.training.request import TrainRequest
from abnn_serve.lab.training.run import Run
from abnn_serve.spec import InputSpec, Labels


def expected_drift(network: AdaptiveNetwork, images: np.ndarray) -> np.ndarray:
    """Drift (N, layers) of images whose own statistics are the recorded ones, from what torch's layers take."""
    seen: list[torch.Tensor] = []
    for layer in network.eval().adaptive_layers:
        layer.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    with torch.no_grad():
        network(to_input(images))
    expected = []
    for z in seen:
        mean, variance = channel_statistics(z)
        code = torch.cat([mean, (variance + EPS).sqrt()], dim=1).numpy()
        away = (code - code.mean(axis=0)) / np.maximum(code.std(axis=0), 1e-6)
        expected.append(np.sqrt(np.square(away).mean(axis=1)))
    return np.stack(expected, axis=1)


def as_stage(name: str, model: bytes) -> Stage:
    """A serialised graph as one that a pass gave."""
    return Stage(name, ir.from_proto(onnx.load_from_string(model)))


def untrained_run(target: str, substitute: str, size: int, path: Path, form: Form = "linear") -> Run:
    """A finished run that never trained, on noise of ten classes."""
    torch.manual_seed(0)
    noise = np.random.default_rng(0).integers(0, 256, (8, size, size, 3), dtype=np.uint8)
    data = ImageData(source="noise", images=noise, labels=np.arange(8), classes=Labels(names=tuple("0123456789")))
    request = TrainRequest(
        recipe=RECIPES["abnn"],
        target=target,
        substitute=substitute,
        form=form,
        data="noise",
        val="noise",
        input=InputSpec(height=size, width=size),
    )
    config, network = assemble(request, data, data)
    for layer in network.adaptive_layers:
        torch.nn.init.normal_(layer.map, std=0.01)
    run = Run(path)
    path.mkdir(parents=True)
    run.write_config(config)
    run.write_text("metrics.jsonl", '{"epoch": 1, "seconds": 0.0, "hardware": "none"}\n')
    run.write_tensors("weights.pt", network.state_dict())
    return run
