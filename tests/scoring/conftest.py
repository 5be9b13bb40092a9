from __future__ import annotations

import hashlib
import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from abnn_serve.runtime.predictor import Predictor
from abnn_serve.runtime.settings import default_bundle
from abnn_serve.scoring.plan import Plan, Row
from abnn_serve.spec import Labels
from tests.drawing import draw_shape, png

LABELS = Labels(names=("cat", "dog", "7"))


@pytest.fixture(scope="session")
def served() -> Predictor:
    """The default bundle."""
    return Predictor.open(default_bundle(), device="cpu", threads=1)


@pytest.fixture(scope="session")
def pictures() -> list[bytes]:
    rng = np.random.default_rng(3)
    return [png(draw_shape(i % 3, rng)) for i in range(40)]


@pytest.fixture
def folder(pictures: list[bytes], tmp_path: Path) -> Path:
    """Thirty pictures in two folders named as classes, an empty file, a truncated one, and a text."""
    for i, data in enumerate(pictures[:30]):
        path = tmp_path / "in" / ("cat" if i % 2 else "dog") / f"{i:02}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    (tmp_path / "in" / "cat" / "empty.png").write_bytes(b"")
    (tmp_path / "in" / "dog" / "half.png").write_bytes(pictures[0][:100])
    (tmp_path / "in" / "notes.txt").write_text("no picture")
    return tmp_path / "in"


def table(out: Path) -> pa.Table:
    """All shards, in order."""
    return pa.concat_tables([pq.read_table(path) for path in sorted((out / "predictions").glob("*.parquet"))])


def fingerprint(out: Path) -> dict[str, str]:
    """The sha256 of everything that a finished run leaves; the order of done.jsonl's lines is the engine's business."""
    files = {
        str(path.relative_to(out)): path.read_bytes()
        for path in sorted(out.rglob("*"))
        if path.is_file() and path.name not in {".lock", "confusion.png"}
    }
    lines = sorted(files["done.jsonl"].splitlines(), key=lambda line: json.loads(line)["unit"])
    return {name: hashlib.sha256(data).hexdigest() for name, data in (files | {"done.jsonl": b"".join(lines)}).items()}


def read_rows(plan: Plan) -> list[Row]:
    """All rows of a source, in order."""
    return [row for unit in plan.units for row in plan.source.read(unit)]


def write_tar(path: Path, files: dict[str, bytes]) -> Path:
    """A tar of files by name."""
    with tarfile.open(path, "w") as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path
