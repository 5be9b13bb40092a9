"""After how many queries does the service notice an attack, and what does it mistake for one?

python -m benchmarks.query_attack --data DATA.parquet --videos FOLDER --out benchmarks/results/query-attack

Runs the default bundle with ABNN_NEAR_DUPLICATES and one API key for each attacked image, for the data set and for each
video. Square attacks images through /v2, once with logits for every answer, once with labels alone from the alarm on.
Then the whole data set is sent in random order under one key, and every frame of each video under a key of its own.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import json
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from abnn_serve.arrays import batch_slices
from abnn_serve.lab.attacks.square import Square
from abnn_serve.lab.data.load import load_data
from abnn_serve.runtime.settings import default_bundle
from abnn_serve.service.key_file import append_key
from abnn_serve.spec import InputSpec
from benchmarks.common.command import add_out_option, new_parser, run
from benchmarks.common.report import Bar, write_record
from benchmarks.common.servers import ABNN, Server, running

_SIZE, _CLASSES, _BATCH = 32, 10, 64
_HEADER = "Inference-Header-Content-Length"


class _Client:
    """Asks for logits under one key."""

    def __init__(self, server: Server, model: str, key: str) -> None:
        self._connection = http.client.HTTPConnection(server.url.removeprefix("http://"), timeout=60)
        self._path, self._key = f"/v2/models/{model}/infer", key
        self.queries, self.noticed_at = 0, 0

    def logits(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Logits of uint8 (N, H, W, 3); notes the query from which only labels are told."""
        data = np.ascontiguousarray(pixels).tobytes()
        tensor = {
            "name": "image",
            "datatype": "UINT8",
            "shape": list(pixels.shape),
            "parameters": {"binary_data_size": len(data)},
        }
        head = json.dumps({"inputs": [tensor], "parameters": {"binary_data_output": True}}).encode()
        headers = {"X-API-Key": self._key, _HEADER: str(len(head))}
        self._connection.request("POST", self._path, head + data, headers)
        response = self._connection.getresponse()
        body = response.read()
        if response.status != http.client.OK:
            raise SystemExit(f"the server answered {response.status}: {body[:200]!r}")
        rows = np.frombuffer(body[int(response.headers[_HEADER]) :], np.float32).reshape(len(pixels), _CLASSES)
        self.queries += len(pixels)
        if not self.noticed_at and set(np.unique(rows)) == {0.0, 1.0}:
            self.noticed_at = self.queries
        return rows

    def model(self, x: Tensor) -> Tensor:
        """As the attack sees it: float (N, 3, H, W) in [0, 1] to logits."""
        pixels = (255 * x).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
        return torch.from_numpy(self.logits(pixels).copy())


class _Service:
    """A running server and its key file."""

    def __init__(self, server: Server, keys: Path, own_key: str, model: str) -> None:
        self._server, self._keys, self._own_key, self._model = server, keys, own_key, model

    def client(self, name: str) -> _Client:
        """A client with a new key."""
        return _Client(self._server, self._model, append_key(self._keys, name))

    def counts(self, metric: str) -> dict[str, int]:
        """A counter by the name of the key."""
        connection = http.client.HTTPConnection(self._server.url.removeprefix("http://"), timeout=60)
        connection.request("GET", "/metrics", headers={"X-API-Key": self._own_key})
        text = connection.getresponse().read().decode()
        rows = re.findall(rf'^abnn_{metric}_total\{{key="(.*?)"\}} (\S+)', text, re.MULTILINE)
        return {key: int(float(value)) for key, value in rows}


def main() -> list[Bar]:
    """Run all parts, print and write the results."""
    parser = new_parser("query_attack", __doc__)
    parser.add_argument("--data", help="labelled images, such as CIFAR-10's test set as Parquet")
    parser.add_argument("--videos", type=Path, help="folder of videos")
    parser.add_argument("--images", type=int, default=20, help="images to attack")
    parser.add_argument("--queries", type=int, default=300, help="queries of Square for each image")
    add_out_option(parser)
    options = parser.parse_args()
    if not options.data or not options.videos:
        parser.error("--data and --videos are needed: the images and videos to send")
    torch.set_num_threads(1)
    data = load_data(options.data, InputSpec(height=_SIZE, width=_SIZE))
    videos = sorted(path for path in options.videos.rglob("*") if path.suffix in {".mp4", ".avi", ".webm"})
    attacks = {mode: _attack(mode, data.images, data.labels, options) for mode in ("count", "label-only")}
    innocent = _send_innocent(data.images, videos)
    noticed = sorted(row["noticed_at"] for row in attacks["label-only"]["images"] if row["queries"] >= options.queries)
    median = float(np.median(noticed)) if noticed else None
    bars = [
        Bar(name="queries until an attack is noticed, median", value=median, limit=options.queries),
        Bar(name="false alarms among images of the data set", value=innocent["data"]["suspicious"], limit=0),
    ]
    if options.out:
        settings = {**vars(options), "data": Path(options.data).name}
        write_record(options.out, settings, bars, attacks=attacks, innocent=innocent)
    return bars


def _attack(mode: str, pixels: Any, labels: Any, options: argparse.Namespace) -> dict[str, Any]:
    """Square on the first images that are classified correctly, each by a caller of its own."""
    rows: list[dict[str, int | bool]] = []
    with _serving(mode) as service:
        for index, (image, label) in enumerate(zip(pixels, labels, strict=True)):
            if len(rows) == options.images:
                break
            client = service.client(f"attacker-{index}")
            x = torch.from_numpy(np.asarray(image)[None].copy()).permute(0, 3, 1, 2).float() / 255
            y = torch.tensor([int(label)])
            if client.logits(np.asarray(image)[None]).argmax() != int(label):
                continue
            adversarial = Square(queries=options.queries)(client.model, x, y, seed=len(rows))
            judge = service.client(f"judge-{index}")
            is_broken = bool(judge.model(adversarial).argmax() != y)
            rows.append({"queries": client.queries - 1, "noticed_at": client.noticed_at, "broken": is_broken})
    broken = sum(bool(row["broken"]) for row in rows)
    print(f"{mode:<12} Square-{options.queries} breaks {broken} of {len(rows)} images")
    return {"images": rows, "broken": broken}


def _send_innocent(pixels: Any, videos: list[Path]) -> dict[str, Any]:
    """Samples that count as suspicious, of the data set in random order and of the frames of videos."""
    with _serving("count") as service:
        client, order = service.client("data"), np.random.default_rng(0).permutation(len(pixels))
        for part in batch_slices(len(order), _BATCH):
            client.logits(np.asarray(pixels)[order[part]])
        frames = {}
        for index, path in enumerate(videos):
            clip = _frames(path)
            watcher = service.client(f"video-{index}")
            for part in batch_slices(len(clip), _BATCH):
                watcher.logits(clip[part])
            frames[f"video-{index}"] = len(clip)
        near, suspicious = (service.counts(name) for name in ("near_duplicates", "suspicious_samples"))
    flagged = [key for key in frames if suspicious.get(key)]
    result = {
        "data": {"samples": len(order), "near": near.get("data", 0), "suspicious": suspicious.get("data", 0)},
        "videos": {
            "videos": len(frames),
            "flagged": len(flagged),
            "frames": sum(frames.values()),
            "suspicious": sum(suspicious.get(key, 0) for key in frames),
        },
    }
    print(json.dumps(result))
    return result


@contextlib.contextmanager
def _serving(mode: str) -> Iterator[_Service]:
    bundle = default_bundle()
    with tempfile.TemporaryDirectory() as folder:
        keys = Path(folder) / "keys"
        own_key = append_key(keys, "metrics")
        env = {"ABNN_BUNDLE": str(bundle), "ABNN_NEAR_DUPLICATES": mode, "ABNN_API_KEY_FILE": str(keys)}
        with running(ABNN, Path(folder) / "log", env={**env, "ABNN_THREADS": "1"}) as server:
            yield _Service(server, keys, own_key, bundle.name)


def _frames(path: Path) -> NDArray[np.uint8]:
    """All frames of a video at the model's size, uint8 (N, 32, 32, 3)."""
    with av.open(path) as container:
        frames = [frame.to_ndarray(format="rgb24", width=_SIZE, height=_SIZE) for frame in container.decode(video=0)]
    return np.stack(frames)


if __name__ == "__main__":
    run("query_attack", main)
