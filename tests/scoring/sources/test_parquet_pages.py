from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from abnn_serve.errors import DataError
from abnn_serve.scoring.sources import parquet_pages
from abnn_serve.scoring.sources.open import open_source
from abnn_serve.scoring.sources.thrift import read_struct
from tests.scoring.conftest import LABELS, read_rows

_SIZE, _ROWS = 1_000_000, 100
_PLAIN = {"compression": "zstd", "write_statistics": False}


def _write(path: Path, values: list[bytes], labels: list[str] | None = None, **options: object) -> Path:
    columns = {"image": values, **({"label": labels} if labels else {})}
    pq.write_table(pa.table(columns), path, **{**_PLAIN, **options})
    return path


def _peak_bytes(path: Path) -> int:
    """Memory that reading a file's rows adds, measured in a process of its own."""
    code = (
        "import resource, sys, pyarrow.parquet; from abnn_serve.scoring.sources.parquet_rows import read_from\n"
        "peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "before = peak(); rows = sum(1 for _ in read_from(sys.argv[1], 'image', 0, 10_000_000))\n"
        "print(rows, peak() - before)"
    )
    out = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True, check=True).stdout
    rows, kilobytes = map(int, out.split())
    assert rows == _ROWS
    return kilobytes * 1000


def test_a_value_that_many_rows_share_is_in_memory_once(tmp_path):
    path = _write(
        tmp_path / "a.parquet",
        [bytes(_SIZE)] * _ROWS,
        ["y" * _SIZE] * _ROWS,
        dictionary_pagesize_limit=2 * _SIZE,
    )
    assert path.stat().st_size < 5_000
    assert _peak_bytes(path) < 30_000_000
    rows = read_rows(open_source(str(path), LABELS))
    assert all(row.content == bytes(_SIZE) and row.truth is None for row in rows)


@pytest.fixture
def free_bytes(monkeypatch) -> None:
    """A megabyte that a column may always unpack to, so that small files exceed it."""
    monkeypatch.setattr(parquet_pages, "_FREE_BYTES", 1_000_000)


@pytest.mark.parametrize("encoding", ["PLAIN", "DELTA_BYTE_ARRAY"])
def test_pages_that_unpack_to_far_more_than_their_bytes_are_rows_with_a_problem(encoding, tmp_path, free_bytes):
    path = _write(tmp_path / "a.parquet", [bytes(100_000)] * 40, use_dictionary=False, column_encoding=encoding)
    rows = read_rows(open_source(str(path), LABELS))
    assert len(rows) == 40
    assert all("unpack to up to 4," in row.problem and "the limit is 1," in row.problem for row in rows)


def test_pages_that_hold_their_bytes_are_read_however_many(tmp_path, free_bytes):
    values = [np.random.default_rng(i).bytes(100_000) for i in range(40)]
    rows = read_rows(open_source(str(_write(tmp_path / "a.parquet", values, use_dictionary=False)), LABELS))
    assert [row.content for row in rows] == values


def test_a_value_over_the_limit_is_a_row_with_a_problem(tmp_path):
    path = _write(tmp_path / "a.parquet", [bytes(2_000), b"x", None])
    rows = read_rows(open_source(str(path), LABELS, max_bytes=1_000))
    assert [row.problem for row in rows] == ["the sample has 2,000 bytes, the limit is 1,000", "", ""]


def test_a_file_that_declares_more_rows_than_bytes_is_refused(tmp_path):
    path = _write(tmp_path / "a.parquet", [None] * 1_000_000)
    with pytest.raises(DataError, match=r"a\.parquet: declares 1,000,000 rows in [\d,]+ bytes"):
        open_source(str(path), LABELS)


def test_labels_of_a_type_that_no_class_has_are_not_read(tmp_path):
    pq.write_table(pa.table({"image": [b"x"] * 300, "label": [[1] * 10_000] * 300}), tmp_path / "a.parquet")
    assert [row.truth for row in read_rows(open_source(str(tmp_path / "a.parquet"), LABELS))] == [None] * 300


@pytest.mark.parametrize("data", [b"\x15", b"\x18\x05ab", b"\x1c\x15"])
def test_a_struct_that_is_cut_off_needs_more_bytes(data):
    with pytest.raises(IndexError):
        read_struct(data, 0)


@pytest.mark.parametrize("data", [b"\x19\x00", b"\x1c" * 20, b"\x15" + b"\xff" * 12])
def test_a_struct_that_no_page_has_is_an_error(data):
    with pytest.raises(OSError, match="the struct"):
        read_struct(data, 0)
