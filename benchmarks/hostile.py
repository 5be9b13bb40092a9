"""What the service does when it is attacked, flooded, told to leave, or loses its worker: against a real process.

python benchmarks/hostile.py --data ../shared/data --out benchmarks/results/hostile-cpu
python benchmarks/hostile.py --only sigterm --times 20

Every trial prints what was counted and whether that is what a service on the internet must do; exits with 1 otherwise.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import io
import json
import os
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import uvloop
from common.flood import open_loop
from common.malformed import KINDS, Malformed, malformed, read_media, send_partly
from common.report import write_record
from common.serving import ABNN, Sample, Server, ask, client, closed_loop, running, wait_until_ready
from PIL import Image

from abnn_serve.bundle.store import load_bundle
from abnn_serve.runtime.settings import DEFAULT_VIDEO_BUNDLE, default_bundle

CLIENTS = 16
DEADLINE = 10.0
FLOODS = 4
FILLING = 3.0  # seconds in which the line fills
Facts = dict[str, Any]


def main() -> None:
    """Run the trials, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=sorted(TRIALS), action="append", help="one trial; all if not given")
    parser.add_argument("--bundle", type=Path, default=default_bundle())
    parser.add_argument("--video-bundle", type=Path, default=default_bundle(DEFAULT_VIDEO_BUNDLE), help="for clips")
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="folder with odd-media")
    parser.add_argument("--requests", type=int, default=10_000, help="malformed ones")
    parser.add_argument("--kind", choices=KINDS, help="of malformed ones; all if not given")
    parser.add_argument("--seconds", type=float, default=60, help=f"of overload, in {FLOODS} floods")
    parser.add_argument("--times", type=int, default=20, help="SIGTERM under load")
    parser.add_argument("--batches", type=int, default=1000, help="with hostile neighbours")
    parser.add_argument("--out", type=Path, help="stem of the JSON file to write")
    options = parser.parse_args()
    if options.seconds <= FLOODS * FILLING:
        parser.error(f"--seconds is {options.seconds:g}, expected more than {FLOODS * FILLING:g}: the lines fill first")
    found: dict[str, Facts] = {}
    for name in options.only or TRIALS:
        with tempfile.TemporaryDirectory() as folder:
            found[name] = TRIALS[name](options, Path(folder))
        print(f"{name}: {'held' if found[name]['held'] else 'BROKEN'}", flush=True)
        for key, value in found[name].items():
            print(f"    {key}: {value}", flush=True)
    if options.out:
        write_record(options.out.with_suffix(".json"), vars(options), trials=found)
    sys.exit(0 if all(facts["held"] for facts in found.values()) else 1)


@contextlib.contextmanager
def _serving(options: argparse.Namespace, folder: Path, **environment: str) -> Iterator[Server]:
    bundles = {"ABNN_BUNDLE": str(options.bundle), "ABNN_VIDEO_BUNDLE": str(options.video_bundle)}
    settings = {**bundles, "ABNN_THREADS": "1", "BENTOML_HOME": str(folder / "home")}
    with running(ABNN, folder / "log", env={**settings, **environment}) as server:
        yield server


def _pictures(size: int, count: int = 16) -> list[bytes]:
    rng = np.random.default_rng(5)
    found = []
    for _ in range(count):
        out = io.BytesIO()
        Image.fromarray(rng.integers(0, 256, (size, size, 3), dtype=np.uint8)).save(out, "PNG")
        found.append(out.getvalue())
    return found


def _workers(server: Server) -> list[psutil.Process]:
    """The processes that answer; the supervisor started them."""
    children = psutil.Process(server.process.pid).children(recursive=True)
    return [child for child in children if "_bentoml_impl.worker.service" in " ".join(child.cmdline())]


@contextlib.contextmanager
def _memory(server: Server) -> Iterator[list[int]]:
    """Resident bytes of the workers, looked at four times a second."""
    sizes: list[int] = []
    done = threading.Event()

    def look() -> None:
        while not done.wait(0.25):
            with contextlib.suppress(psutil.Error):
                sizes.append(sum(worker.memory_info().rss for worker in _workers(server)))

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield sizes
    finally:
        done.set()
        thread.join()


def trial_malformed(options: argparse.Namespace, folder: Path) -> Facts:
    """No 5xx, no crash, the right code for each, bounded memory."""
    bundle = load_bundle(options.bundle)
    good = _pictures(bundle.manifest.input.height)
    images, videos = read_media(options.data, good)
    requests = malformed(options.requests, images, videos, bundle.manifest.input.shape, options.kind)
    plain = [_plain("/classify", "image/png", image) for image in images]
    plain += [_plain("/classify_video", "video/mp4", video) for video in videos]
    with _serving(options, folder, ABNN_UPLOAD_SECONDS="3") as server:
        pids = [worker.pid for worker in _workers(server)]
        with _memory(server) as steady:  # every odd file as it is: what decoding needs at most
            asyncio.run(_send_all(server, plain * 3, bundle.manifest.name))
        with _memory(server) as attacked:
            statuses = asyncio.run(_send_all(server, requests, bundle.manifest.name))
        alive = pids == [worker.pid for worker in _workers(server)]
        after = asyncio.run(closed_loop(f"{server.url}/classify", good, 1, 2.0))
    wrong = [(r.kind, status) for r, status in zip(requests, statuses, strict=True) if status not in r.right]
    growth = max(attacked) / float(np.median(steady[len(steady) // 2 :]))
    return {
        "held": not wrong and alive and growth < 1.5 and all(sample.status == 200 for sample in after),
        "requests": len(requests),
        "statuses": dict(sorted(Counter(statuses).items())),
        "server errors": sum(status >= 500 for status in statuses),
        "wrong answers": dict(Counter(map(str, wrong))),
        "worker survived": alive,
        "peak memory over steady": round(growth, 3),
        "steady MB": round(float(np.median(steady[len(steady) // 2 :])) / 1e6),
    }


def _plain(path: str, content_type: str, body: bytes) -> Malformed:
    return Malformed(kind="plain", path=path, content_type=content_type, body=body, right=frozenset())


async def _send_all(server: Server, requests: Sequence[Malformed], model: str) -> list[int]:
    host, _, port = server.url.removeprefix("http://").partition(":")
    turns = asyncio.Semaphore(CLIENTS)

    async with client(CLIENTS) as session:

        async def one(request: Malformed) -> int:
            async with turns:
                if request.kind in {"cut", "slow"}:
                    return await send_partly(host, int(port), request, 15)
                url = server.url + request.path.replace("{model}", model)
                headers = {"Content-Type": request.content_type}
                try:
                    async with session.post(url, data=request.body, headers=headers) as answer:
                        await answer.read()
                        return answer.status
                except OSError:
                    return -1

        return await asyncio.gather(*map(one, requests))


def trial_overload(options: argparse.Namespace, folder: Path) -> Facts:
    """Ten times what can be sustained: answers or 503, in time, at the plateau's rate, and then as before.

    Plateau and flood take turns, so that other load on the machine hits both alike; the first seconds of a flood, in
    which the line fills, count for its answers but not for its rate.
    """
    pictures = _pictures(load_bundle(options.bundle).manifest.input.height)
    seconds, flood, rates, plateaus = options.seconds / FLOODS, [], [], []
    with _serving(options, folder, ABNN_DEADLINE_SECONDS=str(int(DEADLINE))) as server:
        url = f"{server.url}/classify"
        asyncio.run(closed_loop(url, pictures, 8, 5.0, raw=True))
        before = asyncio.run(closed_loop(url, pictures, 1, 5.0, raw=True))
        for _ in range(FLOODS):
            plateaus.append(_rate(asyncio.run(closed_loop(url, pictures, 8, 12.0, raw=True)), 0, 12.0))
            flood += (samples := uvloop.run(open_loop(url, pictures, 10 * plateaus[0], seconds)))
            rates.append(_rate(samples, FILLING, seconds))
            ended = time.perf_counter()
            waited = asyncio.run(closed_loop(url, pictures, 1, 5.0, raw=True))
        after = asyncio.run(closed_loop(url, pictures, 1, 5.0, raw=True))
    accepted = [sample.seconds for sample in flood if sample.status == 200]
    p50 = [float(np.median([sample.seconds for sample in of])) for of in (before, after)]
    others = {sample.status for sample in flood} - {200, 503}
    share, p99 = float(np.mean(rates) / np.mean(plateaus)), float(np.quantile(accepted, 0.99))
    recovered = any(sample.status == 200 and sample.at + sample.seconds < ended + 5 for sample in waited)
    return {
        "held": not others and p99 < DEADLINE and share > 0.9 and recovered,
        "plateaus, images/s": [round(rate, 1) for rate in plateaus],
        "asked for, requests/s": round(10 * plateaus[0], 1),
        "statuses": dict(Counter(sample.status for sample in flood)),
        "p99 of accepted, s": round(p99, 2),
        "floods, images/s": [round(rate, 1) for rate in rates],
        "throughput over plateau": round(share, 3),
        "answered within 5 s after the last": recovered,
        "p50 alone before and after, ms": [round(1000 * value, 1) for value in p50],
    }


def _rate(samples: Sequence[Sample], start: float, end: float) -> float:
    """Answers a second, from `start` to `end` seconds after the first request."""
    first = min(sample.at for sample in samples)
    ends = [sample.at + sample.seconds - first for sample in samples if sample.status == 200]
    return sum(start <= at < end for at in ends) / (end - start)


def trial_sigterm(options: argparse.Namespace, folder: Path) -> Facts:
    """SIGTERM under load: all that was accepted is answered, and the exit code is 0."""
    pictures, codes, lost, answered, seconds = _pictures(32), [], 0, 0, []
    refused = 0
    for turn in range(options.times):
        place = folder / str(turn)
        place.mkdir()
        with _serving(options, place) as server:
            samples = asyncio.run(_terminated(server, pictures))
            started = time.perf_counter()
            codes.append(server.process.wait(timeout=60))
            seconds.append(time.perf_counter() - started)
            logged = [json.loads(line) for line in server.log.read_text().splitlines() if line.startswith("{")]
        received = sum(sample.status == 200 for sample in samples)
        served = sum(line.get("path") == "/classify" and line.get("status") == 200 for line in logged)
        lost += served - received
        answered += received
        refused += sum(sample.status != 200 for sample in samples)
    return {
        "held": lost == 0 and set(codes) == {0},
        "times": options.times,
        "answered": answered,
        "accepted by the server and not received": lost,
        "not accepted while it left": refused,
        "exit codes": dict(Counter(codes)),
        "longest wait for the exit, s": round(max(seconds), 1),
    }


async def _terminated(server: Server, pictures: Sequence[bytes]) -> list[Sample]:
    asyncio.get_running_loop().call_later(1.5, os.kill, server.process.pid, signal.SIGTERM)
    samples: list[Sample] = []
    async with client(8) as session:

        async def one(index: int) -> None:
            while not samples or samples[-1].status == 200:
                samples.append(await ask(session, f"{server.url}/classify", pictures[index]))

        await asyncio.gather(*(one(index) for index in range(8)))
    return samples


def trial_worker(options: argparse.Namespace, folder: Path) -> Facts:
    """SIGKILL of the worker: nothing says ready while there is none, and the supervisor brings another."""
    with _serving(options, folder) as server:
        (worker,) = _workers(server)
        worker.kill()
        worker.wait(10)
        started = time.monotonic()
        early = asyncio.run(_status(f"{server.url}/readyz", 0.5))
        back = wait_until_ready(server) + time.monotonic() - started
        again = _workers(server)
        answer = asyncio.run(closed_loop(f"{server.url}/classify", _pictures(32), 1, 1.0))
    return {
        "held": early != 200 and [w.pid for w in again] != [worker.pid] and all(s.status == 200 for s in answer),
        "ready without a worker": early == 200,
        "seconds until ready again": round(back, 1),
    }


async def _status(url: str, seconds: float) -> int:
    async with client(1) as session:
        try:
            async with asyncio.timeout(seconds), session.get(url) as answer:
                return answer.status
        except (OSError, TimeoutError):
            return -1


def trial_neighbours(options: argparse.Namespace, folder: Path) -> Facts:
    """Every answer in mixed company is the answer alone."""
    bundle = load_bundle(options.bundle)
    good = _pictures(bundle.manifest.input.height, 32)
    images, videos = read_media(options.data, good)
    bad = malformed(4 * options.batches, images, videos, bundle.manifest.input.shape)
    bad = [request for request in bad if request.kind not in {"cut", "slow"}]
    with _serving(options, folder) as server:
        answers, differences = asyncio.run(_mixed(server, good, bad, options.batches, bundle.manifest.name))
    return {
        "held": answers["lost"] == answers["other class"] == 0 and max(differences) <= 1e-4,
        "batches": options.batches,
        "answers compared": len(differences),
        **answers,
        "largest difference of a probability": max(differences),
        "answers equal to the last digit": sum(value == 0 for value in differences),
    }


async def _mixed(
    server: Server, good: Sequence[bytes], bad: Sequence[Malformed], batches: int, model: str
) -> tuple[dict[str, int], list[float]]:
    rng = np.random.default_rng(3)
    counts, differences = {"lost": 0, "other class": 0}, []
    async with client(CLIENTS) as session:
        url = f"{server.url}/classify?top_k=1000"
        alone = [json.loads((await ask(session, url, picture, keep=True)).body)["top"] for picture in good]

        async def compare(index: int) -> None:
            sample = await ask(session, url, good[index], keep=True)
            if sample.status != 200:
                counts["lost"] += 1
                return
            top = json.loads(sample.body)["top"]
            counts["other class"] += top[0]["index"] != alone[index][0]["index"]
            known = {row["index"]: row["probability"] for row in alone[index]}
            differences.append(max(abs(row["probability"] - known[row["index"]]) for row in top))

        async def disturb(request: Malformed) -> None:
            path = request.path.replace("{model}", model)
            headers = {"Content-Type": request.content_type}
            async with session.post(server.url + path, data=request.body, headers=headers) as answer:
                await answer.read()

        for turn in range(batches):
            chosen = rng.integers(len(good), size=6)
            hostile = [bad[(2 * turn + i) % len(bad)] for i in range(2)]
            await asyncio.gather(*map(compare, chosen), *map(disturb, hostile))
    return counts, differences


TRIALS: dict[str, Callable[[argparse.Namespace, Path], Facts]] = {
    "malformed": trial_malformed,
    "neighbours": trial_neighbours,
    "worker": trial_worker,
    "sigterm": trial_sigterm,
    "overload": trial_overload,
}

if __name__ == "__main__":
    main()
