"""The network behind LitServe in PyTorch with batching, written as in LitServe's guide."""

import argparse
import io
import os
from typing import Any

import litserve
import numpy as np
import torch
from PIL import Image
from starlette.datastructures import UploadFile
from starlette.requests import Request

from abnn_serve.lab.abnn.network import ServedNetwork
from abnn_serve.lab.training.run import Run
from abnn_serve.media.image import fit_image


class Api(litserve.LitAPI):  # type: ignore[misc]
    """Answers with the most probable class, from the checkpoint of the run in BENCH_RUN."""

    def setup(self, device: str) -> None:
        """Load the run's checkpoint."""
        torch.set_num_threads(int(os.environ["ABNN_THREADS"]))
        run = Run(os.environ["BENCH_RUN"])
        self.spec = run.config.input
        self.names = run.config.labels.names
        self.network = ServedNetwork(run.network()).to(device).eval()

    def decode_request(self, request: Request) -> Any:
        """A form's file to pixels. LitServe passes the form, whatever the annotation says."""
        file: UploadFile = request["image"]
        return fit_image(Image.open(io.BytesIO(file.file.read())).convert("RGB"), self.spec)

    def batch(self, inputs: list[Any]) -> Any:
        """Stack the pixels of several requests."""
        return np.stack(inputs)

    def predict(self, x: Any) -> Any:
        """Class probabilities of a batch."""
        with torch.inference_mode():
            return torch.softmax(self.network(torch.from_numpy(x)), 1)

    def unbatch(self, output: Any) -> list[Any]:
        """One row for each request."""
        return list(output)

    def encode_response(self, output: Any) -> dict[str, Any]:
        """The most probable class."""
        index = int(output.argmax())
        return {"label": self.names[index], "probability": float(output[index])}


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--host")
    parser.add_argument("--port", type=int)
    options = parser.parse_args()
    api = Api(max_batch_size=32, batch_timeout=0.005)
    server = litserve.LitServer(api, accelerator="cpu", timeout=120)
    server.run(host=options.host, port=options.port, generate_client_file=False, log_level="warning")
