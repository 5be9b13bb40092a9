from __future__ import annotations

import io
import tarfile

import pytest

from abnn_serve.scoring.sources.open import open_source
from tests.scoring.conftest import LABELS, read_rows, write_tar

_PAX = tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME


def test_tars_are_read_by_key_and_damage_becomes_a_row_with_a_problem(pictures, tmp_path):
    files = {"a/1.png": pictures[0], "a/1.cls": b"1", "a/2.cls": b"0", "a/3.JPG": pictures[1], ".hidden.png": b""}
    whole = write_tar(tmp_path / "1.tar", files)
    (tmp_path / "2.tar").write_bytes(whole.read_bytes()[: 512 + len(pictures[0]) // 2])
    (tmp_path / "3.tar").write_bytes(b"")
    rows = read_rows(open_source(str(tmp_path / "*.tar"), LABELS))
    assert [(row.id, row.truth, bool(row.content)) for row in rows[:3]] == [
        ("1.tar#a/1", 1, True),
        ("1.tar#a/2", 0, False),
        ("1.tar#a/3", None, True),
    ]
    assert rows[1].problem == "no image among its files (cls)"
    assert [row.id for row in rows[3:]] == ["2.tar#", "3.tar#"]
    assert all("damaged after 0 samples" in row.problem for row in rows[3:])


def test_tars_written_by_webdataset_are_read(pictures, tmp_path):
    webdataset = pytest.importorskip("webdataset", reason="needs webdataset")
    with webdataset.TarWriter(str(tmp_path / "w.tar")) as writer:
        for i, data in enumerate(pictures[:3]):
            writer.write({"__key__": f"{i:03}", "png": data, "cls": i})
    rows = read_rows(open_source(str(tmp_path / "w.tar"), LABELS))
    assert [(row.content, row.truth) for row in rows] == [(pictures[i], i) for i in range(3)]


def test_of_a_key_only_the_first_sample_and_a_short_label_are_read(tmp_path):
    files = {f"1.{i:03}.png": bytes(1_000) for i in range(200)} | {"1.cls": b"1" * 5_000, "1.a.png": b"first"}
    files |= {"2.png": bytes(1_001), "2.cls": b"1"}
    rows = read_rows(open_source(str(write_tar(tmp_path / "a.tar", files)), LABELS, max_bytes=1_000))
    assert [(len(row.content), row.truth) for row in rows] == [(1_000, None), (0, 1)]
    assert rows[1].problem == "the sample has 1,001 bytes, the limit is 1,000"
    files = {f"1.{i}": b"" for i in range(1_000)}
    (row,) = read_rows(open_source(str(write_tar(tmp_path / "b.tar", files)), LABELS))
    assert row.problem == "no image among its files (0, 1, 2, 3, 4, 5, 6, 7, 8, 9)"


@pytest.mark.parametrize("kind", _PAX)
def test_a_header_that_takes_memory_is_damage(kind, tmp_path):
    with tarfile.open(tmp_path / "a.tgz", "w:gz") as archive:
        info = tarfile.TarInfo("x")
        info.type, info.size = kind, 5_000_000
        archive.addfile(info, io.BytesIO(bytes(info.size)))
    assert (tmp_path / "a.tgz").stat().st_size < 100_000
    (row,) = read_rows(open_source(str(tmp_path / "a.tgz"), LABELS))
    assert row.problem.endswith("a header of 5,000,000 bytes, the limit is 1,048,576")


def test_global_headers_are_counted_together(tmp_path):
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        for number in range(8):
            body = f"200009 k{number}=".encode().ljust(200_008, b"x") + b"\n"
            info = tarfile.TarInfo("x")
            info.type, info.size = tarfile.XGLTYPE, len(body)
            archive.addfile(info, io.BytesIO(body))
    (row,) = read_rows(open_source(str(tmp_path / "a.tar"), LABELS))
    assert "a header of 1,200,054 bytes, the limit is 1,048,576" in row.problem


def test_a_tar_that_says_tar_may_be_packed_by_gzip_but_not_by_xz(pictures, tmp_path):
    for mode in ("gz", "xz"):
        with tarfile.open(tmp_path / f"{mode}.tar", f"w:{mode}") as archive:
            info = tarfile.TarInfo("1.png")
            info.size = len(pictures[0])
            archive.addfile(info, io.BytesIO(pictures[0]))
    packed, refused = read_rows(open_source(str(tmp_path / "*.tar"), LABELS))
    assert packed.content == pictures[0]
    assert "the tar is damaged after 0 samples" in refused.problem
