"""Does another precision of the default bundle give the same answers, as a shadow of the service counts them?

python -m benchmarks.shadow --data DATA.parquet --out benchmarks/results/shadow-int8-cpu

The default bundle runs with that precision of itself as its shadow. Images are sent a few at a time; once the shadow
has answered them all, /metrics has what `abnn compare-traffic` reads.
"""

from __future__ import annotations

import asyncio
import dataclasses
import io
import tempfile
import time
import urllib.request
from pathlib import Path

import aiohttp
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from abnn_serve.arrays import batch_slices
from abnn_serve.bundle.store import load_bundle
from abnn_serve.lab.data.load import load_data
from abnn_serve.runtime.settings import default_bundle
from abnn_serve.service.idle import QUEUE
from abnn_serve.service.traffic import ShadowComparison, compare_shadows, read_samples
from benchmarks.common.command import add_out_option, new_parser, run
from benchmarks.common.report import Bar, write_record
from benchmarks.common.servers import ABNN, Server, client, running

_WAIT_SECONDS = 60.0


def main() -> list[Bar]:
    """Send the images, print and write the comparison."""
    parser = new_parser("shadow", __doc__)
    parser.add_argument("--data", required=True, help="labelled images, such as CIFAR-10's test set as Parquet")
    parser.add_argument("--images", type=int, default=2000, help="the first so many of them are sent")
    parser.add_argument("--precision", default="int8", help="precision of the shadow")
    add_out_option(parser)
    options = parser.parse_args()
    manifest = load_bundle(default_bundle()).manifest
    images = load_data(f"{options.data}[0:{options.images}]", manifest.input).images
    environment = {
        "ABNN_BUNDLE": str(default_bundle()),
        "ABNN_SHADOW": f"{manifest.name}:{default_bundle()}",
        "ABNN_SHADOW_PRECISION": options.precision,
    }
    with tempfile.TemporaryDirectory() as folder, running(ABNN, Path(folder) / "log", env=environment) as server:
        for part in batch_slices(len(images), QUEUE):
            asyncio.run(_send(server, np.asarray(images[part])))
            comparison = _wait_for(server, part.stop)
    agreement = comparison.agreement
    bars = [Bar(name="share of images with the same class", value=agreement.value, limit=0.98, better="larger")]
    print(f"the same class for {agreement}")
    if options.out:
        settings = {**vars(options), "data": Path(options.data).name}
        classes = [dataclasses.asdict(row) for row in comparison.classes]
        write_record(options.out, settings, bars, agreement=agreement.interval, classes=classes)
    return bars


async def _send(server: Server, images: NDArray[np.uint8]) -> None:
    form = aiohttp.FormData()
    for image in images:
        file = io.BytesIO()
        Image.fromarray(image).save(file, "PNG")
        form.add_field("images", file.getvalue(), filename="image", content_type="image/png")
    async with client(1) as session, session.post(f"{server.url}/classify_batch", data=form) as response:
        response.raise_for_status()


def _wait_for(server: Server, count: int) -> ShadowComparison:
    """The comparison, once it has so many samples."""
    url, end = f"{server.url}/metrics", time.monotonic() + _WAIT_SECONDS
    while time.monotonic() < end:
        with urllib.request.urlopen(url, timeout=10) as response:  # noqa: S310
            comparisons = compare_shadows(read_samples(response.read().decode(), url))
        if comparisons and comparisons[0].agreement.n == count:
            return comparisons[0]
        time.sleep(0.05)
    raise SystemExit(f"the shadow did not answer {count} images within {_WAIT_SECONDS:.0f} s")


if __name__ == "__main__":
    run("shadow", main)
