from __future__ import annotations

from pathlib import Path

import fsspec
import pytest

from abnn_serve.errors import DataError
from abnn_serve.media.limits import ImageLimits, VideoLimits
from abnn_serve.scoring.decode import Decoder
from abnn_serve.scoring.sources.open import open_source
from abnn_serve.spec import InputSpec
from tests.drawing import write_parquet
from tests.scoring.conftest import LABELS, read_rows, write_tar


def test_the_digest_of_a_plan_changes_with_its_source(folder):
    before = open_source(str(folder), LABELS).digest
    assert open_source(str(folder) + "/", LABELS).digest == before
    (folder / "cat" / "new.png").write_bytes(b"x")
    assert open_source(str(folder), LABELS).digest != before


@pytest.mark.parametrize(("kind", "text"), [("csv", "path\n{}\n"), ("jsonl", '{{"path": "{}"}}\n')])
def test_the_digest_of_a_plan_changes_with_the_content_of_a_list(kind, text, tmp_path):
    path = tmp_path / f"list.{kind}"
    path.write_text(text.format("a.png"))
    before = open_source(str(path), LABELS).digest
    assert open_source(str(path), LABELS).digest == before
    path.write_text(text.format("b.png"))
    assert open_source(str(path), LABELS).digest != before


def test_urls_are_listed_by_fsspec(pictures):
    system = fsspec.filesystem("memory")
    system.pipe({"/bucket/cat/1.png": pictures[0], "/bucket/dog/2.png": pictures[1]})
    rows = read_rows(open_source("memory://bucket", LABELS))
    assert [(row.id, row.truth) for row in rows] == [("cat/1.png", 0), ("dog/2.png", 1)]
    assert rows[0].content == "memory:///bucket/cat/1.png"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nowhere", "nowhere: no such file or folder; expected a folder"),
        ("*.parquet", "no such file or folder"),
        ("texts", "no images among 1 files"),
        ("both", "has 1 images and 1 tars; choose one type"),
        ("bad.csv", "has the columns file, expected `path`"),
        ("broken.jsonl", "not readable as a list of files"),
        ("binary.csv", "not readable as a list of files"),
        ("binary.jsonl", "not readable as a list of files"),
        ("what://bucket", "Protocol not known: what"),
    ],
)
def test_a_source_that_cannot_be_scored_is_refused_by_name(name, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for path in ("texts/a.txt", "both/a.png", "both/a.tar"):
        Path(path).parent.mkdir(exist_ok=True)
        Path(path).write_text("x")
    Path("bad.csv").write_text("file\na.png\n")
    Path("broken.jsonl").write_text('{"path": ')
    Path("binary.jsonl").write_bytes(b'{"path": "a.pn\xd4"}\n')
    Path("binary.csv").write_bytes(b"pa\x80th,label\na.png,cat\n")
    with pytest.raises(DataError, match=message):
        open_source(name, LABELS)


def test_two_colons_in_a_local_name_do_not_chain_file_systems(pictures, tmp_path, monkeypatch):
    folder = tmp_path / "a::b"
    folder.mkdir()
    (folder / "b::c.png").write_bytes(pictures[0])
    (folder / "list::1.csv").write_text("path\nb::c.png\n")
    write_parquet(folder / "p::q.parquet", pictures[:1], [0])
    write_tar(folder / "t::u.tar", {"1.png": pictures[0]})
    monkeypatch.chdir(tmp_path)
    decode = Decoder(spec=InputSpec(height=32, width=32), limits=ImageLimits(), video_limits=VideoLimits())
    for name in ("a::b/*.png", str(folder / "b::c.png"), "a::b/list::1.csv", "a::b/p::q.parquet", "a::b/t::u.tar"):
        rows = read_rows(open_source(name, LABELS))
        assert len(rows) == 1
        assert decode(rows).problems == ("",)
