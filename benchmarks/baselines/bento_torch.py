"""The network as a BentoML service in PyTorch with adaptive batching, written as in BentoML's guide."""

from __future__ import annotations

import os
from typing import Any

import bentoml
import numpy as np
import torch
from PIL import Image

from abnn_serve.lab.abnn.network import ServedNetwork
from abnn_serve.lab.training.run import Run
from abnn_serve.media.image import fit_image

torch.set_num_threads(int(os.environ["ABNN_THREADS"]))


@bentoml.service(name="bento_torch", traffic={"timeout": 120})
class BentoTorch:
    """Answers with the most probable class, from the checkpoint of the run in BENCH_RUN."""

    def __init__(self) -> None:
        run = Run(os.environ["BENCH_RUN"])
        self.spec = run.config.input
        self.names = run.config.labels.names
        self.network = ServedNetwork(run.network()).eval()

    @bentoml.api(batchable=True, max_batch_size=32, max_latency_ms=10_000)  # type: ignore[untyped-decorator]
    def classify(self, images: list[Image.Image]) -> list[dict[str, Any]]:
        """The most probable class of each image."""
        pixels = np.stack([fit_image(image.convert("RGB"), self.spec) for image in images])
        with torch.inference_mode():
            probabilities = torch.softmax(self.network(torch.from_numpy(pixels)), 1)
        best = probabilities.max(1)
        return [
            {"label": self.names[int(index)], "probability": float(value)}
            for value, index in zip(best.values, best.indices, strict=True)
        ]
