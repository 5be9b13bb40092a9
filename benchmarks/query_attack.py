"""After how many queries does the service notice an attack, and what does it mistake for one?

python -m benchmarks.query_attack --data DATA.parquet --videos FOLDER --out benchmarks/results/query-attack
python -m benchmarks.query_attack --record benchmarks/results/query-attack.json --card models/cifar10-abnn-robust

Runs the default bundle with ABNN_NEAR_DUPLICATES and one API key for each attacked image, for the data set and for each
video. Square attacks images through /v2, once with logits for every answer, once with labels alone from the alarm on.
Then the whole data set is sent in random order under one key, and every frame of each video under a key of its own.
Other alarms than the default, and videos sent as such, are counted in this process by the service's code. The second
form runs nothing: it writes the figures of a record on the card of the bundle that they were measured on.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import json
import re
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from abnn_serve.arrays import batch_slices
from abnn_serve.bundle.store import load_bundle, with_card
from abnn_serve.card import QueryAttacks
from abnn_serve.lab.attacks.square import Square
from abnn_serve.lab.data.load import load_data
from abnn_serve.runtime.settings import default_bundle
from abnn_serve.service.fingerprints import Fingerprint
from abnn_serve.service.key_file import append_key
from abnn_serve.service.metrics import Metrics
from abnn_serve.service.near_duplicates import NearDuplicates
from abnn_serve.spec import InputSpec
from benchmarks.common.command import add_out_option, new_parser, run
from benchmarks.common.report import Bar, write_record
from benchmarks.common.servers import ABNN, Server, running, wait_until_ready

_SIZE, _CLASSES, _BATCH = 32, 10, 64
_ALARMS = (32, 64, 96, 128, 256)
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
        """A client with a new key, which the server has read."""
        key = append_key(self._keys, name)
        wait_until_ready(self._server, "/metrics", headers={"X-API-Key": key})
        return _Client(self._server, self._model, key)

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
    parser.add_argument("--record", type=Path, help="results of an earlier run, for --card")
    parser.add_argument("--card", type=Path, help="bundle whose card gets the figures of --record; changes its digest")
    add_out_option(parser)
    options = parser.parse_args()
    if options.card or options.record:
        if not (options.card and options.record):
            parser.error("--card and --record belong together")
        print(write_on_card(options.card, json.loads(options.record.read_text())))
        return []
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
        settings = {
            **{name: value for name, value in vars(options).items() if name not in {"card", "record"}},
            "data": Path(options.data).name,
        }
        model = load_bundle(default_bundle()).card.model_sha256
        write_record(options.out, settings, bars, model_sha256=model, attacks=attacks, innocent=innocent)
    return bars


def write_on_card(path: Path, record: dict[str, Any]) -> QueryAttacks:
    """Write the figures of a record on the card of the bundle that it was measured on.

    Raises:
        SystemExit: it was measured on another model.
    """
    bundle, settings, innocent = load_bundle(path), record["settings"], record["innocent"]
    if record["model_sha256"] != bundle.card.model_sha256:
        raise SystemExit(f"the record was measured on another model.onnx than that of {path}; run the benchmark again")
    attacks = record["attacks"]
    result = QueryAttacks(
        attack="Square",
        queries=settings["queries"],
        images=len(attacks["count"]["images"]),
        noticed_after=record["bars"][0]["measured"],
        broken=attacks["count"]["broken"],
        broken_label_only=attacks["label-only"]["broken"],
        data=settings["data"],
        innocent=innocent["data"]["samples"],
        false_alarms=innocent["data"]["suspicious"],
        frames=innocent["videos"]["frames"],
        false_frames=innocent["videos"]["suspicious"],
    )
    with_card(bundle, replace(bundle.card, query_attacks=result))
    return result


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
        frames, clips = {}, [_frames(path) for path in videos]
        for index, clip in enumerate(clips):
            watcher = service.client(f"video-{index}")
            for part in batch_slices(len(clip), _BATCH):
                watcher.logits(clip[part])
            frames[f"video-{index}"] = len(clip)
        near, suspicious = (service.counts(name) for name in ("near_duplicates", "suspicious_samples"))
    flagged = [key for key in frames if suspicious.get(key)]
    result: dict[str, Any] = {
        "data": {"samples": len(order), "near": near.get("data", 0), "suspicious": suspicious.get("data", 0)},
        "videos": {
            "videos": len(frames),
            "flagged": len(flagged),
            "frames": sum(frames.values()),
            "suspicious": sum(suspicious.get(key, 0) for key in frames),
        },
    }
    result |= {"alarms": _count_frames(clips), "whole_videos": _count_videos(clips)}
    print(json.dumps(result))
    return result


def _count_frames(clips: list[NDArray[np.uint8]]) -> list[dict[str, int]]:
    """For each alarm, the suspicious frames where each video has a key of its own, and where all have one key."""
    own, shared = [], NearDuplicates(Metrics(workers=1))
    for clip in clips:
        meter = NearDuplicates(Metrics(workers=1))
        own.append([meter.observe("", Fingerprint.of([frame])) for frame in clip])
    together = [shared.observe("", Fingerprint.of([frame])) for clip in clips for frame in clip]
    return [
        {
            "alarm": alarm,
            "videos": sum(max(counts) >= alarm for counts in own),
            "frames": sum(count >= alarm for counts in own for count in counts),
            "frames_one_key": sum(count >= alarm for count in together),
        }
        for alarm in _ALARMS
    ]


def _count_videos(clips: list[NDArray[np.uint8]]) -> dict[str, int]:
    """Videos sent as such under one key, in clips of 16 frames: how many resemble others, and how many at most."""
    meter = NearDuplicates(Metrics(workers=1))
    counts = [meter.observe("", Fingerprint.of(np.array_split(clip, max(1, len(clip) // 16)))) for clip in clips]
    return {"videos": len(counts), "near": sum(count > 0 for count in counts), "most": max(counts)}


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
