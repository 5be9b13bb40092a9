from __future__ import annotations

import pytest

from abnn_serve.scoring.sources.open import open_source
from tests.scoring.conftest import LABELS, read_rows, write_tar


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
