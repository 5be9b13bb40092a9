from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest

from abnn_serve.errors import DataError
from abnn_serve.media.limits import ImageLimits, VideoLimits
from abnn_serve.scoring.decode import Decoder
from abnn_serve.scoring.plan import Row
from abnn_serve.scoring.sources.filesystem import is_beneath, read_start
from abnn_serve.scoring.sources.open import open_source
from abnn_serve.spec import InputSpec
from tests.scoring.conftest import LABELS, read_rows
from tests.whole_file_server import whole_file_server


def test_a_folder_gives_its_images_in_name_order_with_their_folders_as_classes(folder):
    rows = read_rows(open_source(str(folder), LABELS, shard_rows=5))
    assert [row.id for row in rows] == sorted(row.id for row in rows)
    assert len(rows) == 32
    assert {row.id.split("/")[0]: row.truth for row in rows} == {"cat": 0, "dog": 1}
    assert all(Path(str(row.content)).is_file() for row in rows)


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_a_trusted_list_names_files_relative_to_it_absolute_or_by_url(kind, folder, tmp_path):
    paths = ["in/cat/01.png", str(folder / "dog" / "00.png"), "memory://x/y.png", "../gone.png"]
    labels = ["cat", "dog", "horse", "cat"]
    path = tmp_path / f"list.{kind}"
    if kind == "csv":
        path.write_text("path,label\n" + "".join(f"{p},{label}\n" for p, label in zip(paths, labels, strict=True)))
    else:
        lines = [json.dumps({"path": p, "label": label}) for p, label in zip(paths, labels, strict=True)]
        path.write_text("\n".join(lines))
    rows = read_rows(open_source(str(path), LABELS, allow_remote=True))
    assert [row.id for row in rows] == [f"list.{kind}#{i}" for i in range(4)]
    assert [row.truth for row in rows] == [0, 1, None, 0]
    assert rows[0].content == str(folder / "cat" / "01.png")
    assert rows[2].content == "memory://x/y.png"
    assert {row.within for row in rows} == {""}


@pytest.mark.parametrize(
    "path",
    [
        "/etc/passwd",
        "../secret.png",
        "in/../../secret.png",
        "file:///etc/passwd",
        "http://127.0.0.1:1/a.png",
        "simplecache::http://127.0.0.1:1/a.png",
        "memory://x/y.png",
    ],
)
def test_a_list_must_not_name_what_is_outside_its_folder(path, tmp_path):
    (tmp_path / "list.csv").write_text(f"path\nin/a.png\n{path}\n")
    with pytest.raises(DataError, match=r"row 1 of list\.csv names .*outside the list's folder.*--allow-remote"):
        open_source(str(tmp_path / "list.csv"), LABELS)


@pytest.mark.parametrize(
    ("address", "beneath"),
    [
        ("http://host/data/a/b.png", True),
        ("http://host/data/../b.png", False),
        ("http://host/data/%2e%2e/b.png", False),
        ("http://other/data/b.png", False),
        ("https://host/data/b.png", False),
        ("http://host/database/b.png", False),
        ("http://host/data/zip://x::http://other/y", False),
        ("/data/b.png", False),
    ],
)
def test_a_url_is_inside_the_folder_of_its_list_or_not(address, beneath):
    assert is_beneath(address, "http://host/data") is beneath


def _problems(path: Path, **options: object) -> list[str]:
    decode = Decoder(spec=InputSpec(height=32, width=32), limits=ImageLimits(), video_limits=VideoLimits())
    return list(decode(read_rows(open_source(str(path), LABELS, **options))).problems)


def test_a_link_out_of_the_lists_folder_is_not_followed(folder, tmp_path):
    lists = tmp_path / "lists"
    lists.mkdir()
    (lists / "out.png").symlink_to(folder / "cat" / "01.png")
    (lists / "real").mkdir()
    (lists / "real" / "a.png").write_bytes((folder / "cat" / "01.png").read_bytes())
    (lists / "in.png").symlink_to(lists / "real" / "a.png")
    (lists / "list.csv").write_text("path\nout.png\nin.png\n")
    refused, read = _problems(lists / "list.csv")
    assert "01.png, which is outside the list's folder" in refused
    assert read == ""
    assert _problems(lists / "list.csv", allow_remote=True) == ["", ""]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no FIFOs")
def test_a_fifo_and_a_device_are_rows_with_a_problem_at_once(tmp_path):
    os.mkfifo(tmp_path / "a.png")
    (tmp_path / "list.csv").write_text("path\na.png\n/dev/zero\n")
    problems = _problems(tmp_path / "list.csv", allow_remote=True)
    assert [problem.endswith("is not a regular file") for problem in problems] == [True, True]


def test_no_more_than_the_limit_is_taken_from_a_server_that_ignores_range():
    with whole_file_server() as (url, sent):
        content = read_start(url, 3_000_001)
    assert content == bytes(3_000_001)
    assert sum(sent) < 50_000_000  # what the kernel's buffers hold comes on top


def test_files_are_read_a_few_ahead_of_the_one_that_is_decoded(tmp_path, monkeypatch):
    from abnn_serve.scoring import decode

    opened = []
    monkeypatch.setattr(decode, "read_start", lambda address, *_: opened.append(address) or b"")
    decoder = Decoder(spec=InputSpec(height=32, width=32), limits=ImageLimits(), video_limits=VideoLimits())
    rows = decoder._read([Row(id=str(i), source=str(i), content=str(i)) for i in range(64)])
    next(rows)
    time.sleep(0.1)
    assert len(opened) <= 16
    assert len(list(rows)) == 63
