"""The commands, the output and the table of columns in docs/scoring.md."""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from abnn_serve.cli.main import app
from abnn_serve.media import container, image
from abnn_serve.scoring.scorer import Columns, Scorer
from tests.drawing import encode_video, passing_square, write_parquet
from tests.scoring.conftest import table, write_tar

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "scoring.md").read_text()
COMMANDS = [
    line for block in re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL) for line in block.splitlines() if "abnn" in line
]
LOCAL = [line for line in COMMANDS if "://" not in line and "--engine ray" not in line]


@pytest.fixture
def sources(folder, pictures, tmp_path, monkeypatch) -> Path:
    """The sources that the page names, in the working directory."""
    import numpy as np

    shutil.move(folder, tmp_path / "photos")
    for name in ("rows", "shards", "videos"):
        (tmp_path / name).mkdir()
    write_parquet(tmp_path / "rows" / "train.parquet", pictures[:5], [0] * 5, classes=("cat",))
    write_tar(tmp_path / "shards" / "0.tar", {"000017.png": pictures[0], "000017.cls": b"3"})
    (tmp_path / "list.csv").write_text("path,label\nphotos/cat/01.png,cat\n")
    frames = passing_square(np.random.default_rng(0), rightwards=True)
    (tmp_path / "videos" / "a.avi").write_bytes(encode_video(frames, container="avi", codec="mpeg4"))
    (tmp_path / "models").symlink_to(ROOT / "models")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ABNN_DEVICE", "cpu")
    return tmp_path


def test_the_commands_score_their_sources(sources):
    for line in LOCAL:
        result = CliRunner().invoke(app, [*shlex.split(line)[1:], "--workers", "0"])
        assert result.exit_code == 0, (line, result.output)
    ids = {name: table(sources / f"scored-{name}")["id"].to_pylist() for name in ("rows", "shards", "list", "videos")}
    assert ids == {
        "rows": [f"train.parquet#{i}" for i in range(5)],
        "shards": ["0.tar#000017"],
        "list": ["list.csv#0"],
        "videos": ["a.avi"],
    }
    assert "scored/predictions: 32 rows" in PAGE
    assert table(sources / "scored").num_rows == 32
    names = {path.name for path in (sources / "scored").iterdir()}
    assert names <= set(re.findall(r"[\w.]*\w", PAGE)) | {"predictions"}
    assert {"quarantine.jsonl", "summary.json", "confusion.png", "run.json", "done.jsonl"} <= names
    (code,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    printed: list[object] = []
    exec(code, {"print": printed.append})
    assert printed == [30]


def test_commands_for_urls_and_ray_have_only_existing_options():
    command = typer.main.get_command(app)
    assert len(COMMANDS) - len(LOCAL) == 3
    for line in set(COMMANDS) - set(LOCAL):
        name, *arguments = shlex.split(line)[1:]
        command.commands[name].make_context(name, arguments)


def test_the_columns_and_their_types_are_these(served):
    rows = dict(re.findall(r"^\| `(\w+)` \| ([^|]+) \|", PAGE, re.MULTILINE))
    schema = Scorer(served, Columns(logits=True, drift=True)).schema
    kinds = {field.name: re.sub(r"<.*", "", str(field.type)) for field in schema}
    assert list(rows) == schema.names
    assert {name: kind.split()[0].rstrip(":") for name, kind in rows.items()} == {
        name: {"float": "float32"}.get(kind, kind) for name, kind in kinds.items()
    }


def test_the_file_types_are_these():
    for suffix in (*image.SUFFIXES, *container.SUFFIXES):
        assert f"`{suffix}`" in PAGE
