"""Hostile bundles, sources and settings of docs/security.md, each in a process of its own, whose memory is measured.

python -m benchmarks.trials.aimed_files CASE FOLDER prints whether the case was held to its limits, MB and
seconds of the processor.
"""

from __future__ import annotations

import gzip
import io
import os
import re
import resource
import subprocess
import sys
import tarfile
import time
import tomllib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from abnn_serve.bundle.golden import unpack_golden
from abnn_serve.bundle.graph_checks import check_graph
from abnn_serve.cli.terminal import printable
from abnn_serve.errors import AbnnError
from abnn_serve.media.limits import ImageLimits, VideoLimits
from abnn_serve.scoring.decode import Decoder
from abnn_serve.scoring.sources.filesystem import read_start
from abnn_serve.scoring.sources.open import open_source
from abnn_serve.service.auth import KeyRing
from abnn_serve.service.key_file import append_key, new_key
from abnn_serve.service.settings import ServiceSettings
from abnn_serve.spec import InputSpec, Labels
from benchmarks.common.report import Bar
from tests.whole_file_server import whole_file_server

_ROOT = Path(__file__).parents[2]
_LIMIT_MB, _LIMIT_SECONDS = 400, 10
_MANY = 10_000_000

Check = Callable[[], object]  # true if the input was held to its limits


def file_bars(folder: Path) -> list[Bar]:
    """One bar each: 0 if the input was held to its limits, within 400 MB and ten seconds of the processor."""
    return [Bar(name=name, value=int(not _held(name, folder)), limit=0) for name in CASES]


def _held(name: str, folder: Path) -> bool:
    command = [sys.executable, "-m", "benchmarks.trials.aimed_files", name, str(folder)]
    try:
        output = subprocess.run(  # noqa: S603
            command, capture_output=True, text=True, cwd=_ROOT, timeout=180, check=True
        ).stdout
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
        print(f"    {name}: {error}", flush=True)
        return False
    held, megabytes, seconds = map(float, output.split())
    print(f"    {name}: {megabytes:.0f} MB, {seconds:.2f} s", flush=True)
    return bool(held) and megabytes <= _LIMIT_MB and seconds <= _LIMIT_SECONDS


def _outside_weights(_: Path) -> Check:
    tensor = bytes([0x70, 1])  # data_location = EXTERNAL
    graph = b"\x2a" + bytes([len(tensor)]) + tensor
    return lambda: _refuses(lambda: check_graph(b"\x3a" + bytes([len(graph)]) + graph, "a.onnx"))


def _golden(_: Path) -> Check:
    out = io.BytesIO()
    np.savez_compressed(out, inputs=np.zeros((1000, 100, 100, 3), np.uint8))
    return lambda: _refuses(lambda: unpack_golden(out.getvalue(), (100, 100, 3), "golden.npz"))


def _shared_value(folder: Path) -> Check:
    table = pa.table({"image": [bytes(5_000_000)] * 200})
    pq.write_table(
        table, folder / "a.parquet", compression="zstd", write_statistics=False, dictionary_pagesize_limit=_MANY
    )
    return lambda: len(_read(folder / "a.parquet")) == 200


def _unpacking_page(folder: Path) -> Check:
    """A page of a gigabyte, written in another process, whose memory does not count."""
    code = (
        "import pyarrow as pa, pyarrow.parquet as pq, sys; table = pa.table({'image': [bytes(1_000_000_000)]}); "
        "pq.write_table(table, sys.argv[1], compression='zstd', use_dictionary=False, write_statistics=False)"
    )
    subprocess.run([sys.executable, "-c", code, str(folder / "b.parquet")], check=True)  # noqa: S603
    return lambda: all(_read(folder / "b.parquet"))


def _tar(folder: Path) -> Check:
    with gzip.open(folder / "a.tgz", "wb", 1) as file:
        for number in range(3):
            info = tarfile.TarInfo(f"{number}.png")
            info.size = 200_000_000
            file.write(info.tobuf())
            for _ in range(200):
                file.write(bytes(1_000_000))
            file.write(bytes(-info.size % 512))
    return lambda: all(_read(folder / "a.tgz"))


def _fifo(folder: Path) -> Check:
    os.mkfifo(folder / "a.png")
    (folder / "fifo.csv").write_text("path\na.png\n")
    return lambda: all(_read(folder / "fifo.csv"))


def _no_range(_: Path) -> Check:
    def read() -> bool:
        with whole_file_server() as (url, _):
            return len(read_start(url, _MANY + 1)) == _MANY + 1

    return read


def _list(folder: Path) -> Check:
    (folder / "list.csv").write_text("path\n/etc/passwd\n")
    return lambda: _refuses(lambda: _read(folder / "list.csv"))


def _key_file(folder: Path) -> Check:
    keys = folder / "keys"
    keys.write_text(new_key("one")[1])
    append_key(keys, "two")
    return lambda: len(keys.read_text().splitlines()) == 2 and KeyRing(keys)


def _blank_key_file(_: Path) -> Check:
    return lambda: _refuses(lambda: ServiceSettings.from_environment({"ABNN_API_KEY_FILE": " "}))


def _escapes(_: Path) -> Check:
    return lambda: printable("a\x1b[2J\n").isprintable()


def _versions(_: Path) -> Check:
    """The oldest versions that may be installed are those that SECURITY.md lists."""
    needed = tomllib.loads((_ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    floors = dict(re.findall(r"^\| ([a-z-]+) \| ([\d.]+) \|", (_ROOT / "SECURITY.md").read_text(), re.MULTILINE))
    return lambda: (
        floors and all(any(text.startswith(f"{name}>={floor}") for text in needed) for name, floor in floors.items())
    )


def _pods(_: Path) -> Check:
    pods = [(_ROOT / "deploy" / name).read_text() for name in ("kubernetes.yaml", "kubernetes-cuda.yaml")]
    wanted = ("automountServiceAccountToken: false", "NetworkPolicy", "memory:", "sizeLimit")
    return lambda: all(text in pod for pod in pods for text in wanted)


CASES: dict[str, Callable[[Path], Check]] = {
    "S14 weights outside the bundle": _outside_weights,
    "S17 Parquet: a shared value": _shared_value,
    "S17 Parquet: a page that unpacks": _unpacking_page,
    "S17 tar: members of 200 MB": _tar,
    "S17 FIFO in a list": _fifo,
    "S17 HTTP server that ignores Range": _no_range,
    "S18 oldest versions": _versions,
    "S19 blank ABNN_API_KEY_FILE": _blank_key_file,
    "S20 key file without a final newline": _key_file,
    "S21 terminal escapes": _escapes,
    "S22 golden.npz that inflates": _golden,
    "S23 list that names any file": _list,
    "S25 pods without limits": _pods,
}


def _read(source: Path) -> list[str]:
    """The problems of a source's rows."""
    plan = open_source(str(source), Labels(names=("a", "b")))
    decode = Decoder(spec=InputSpec(height=32, width=32), limits=ImageLimits(), video_limits=VideoLimits())
    rows = (row for unit in plan.units for row in plan.source.read(unit))
    return [problem for row in rows for problem in decode([row]).problems]


def _refuses(read: Callable[[], object]) -> bool:
    try:
        read()
    except AbnnError:
        return True
    return False


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


if __name__ == "__main__":
    check = CASES[sys.argv[1]](Path(sys.argv[2]))
    before, started = _peak(), time.process_time()
    held = bool(check())
    print(int(held), (_peak() - before) / 1000, time.process_time() - started)
