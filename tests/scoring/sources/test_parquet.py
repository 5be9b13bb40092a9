from __future__ import annotations

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from abnn_serve.errors import DataError
from abnn_serve.scoring.sources.open import open_source
from tests.drawing import write_parquet
from tests.scoring.conftest import LABELS, read_rows


def test_parquet_is_cut_across_row_groups_and_read_from_any_unit(pictures, tmp_path):
    path = tmp_path / "a.parquet"
    write_parquet(path, pictures, range(len(pictures)), classes=())
    pq.write_table(pq.read_table(path), path, row_group_size=7)
    plan = open_source(str(path), LABELS, shard_rows=9)
    assert [unit.rows for unit in plan.units] == [9, 9, 9, 9, 4]
    rows = read_rows(plan)
    assert [row.content for row in rows] == pictures
    assert [row.id for row in rows] == [f"a.parquet#{i}" for i in range(40)]
    fresh = open_source(str(path), LABELS, shard_rows=9)
    backwards = [list(fresh.source.read(unit)) for unit in reversed(fresh.units)]
    assert [row for unit in reversed(backwards) for row in unit] == rows


def test_a_unit_that_was_read_halfway_is_read_again_from_its_start(pictures, tmp_path):
    write_parquet(tmp_path / "a.parquet", pictures, [0] * 40)
    plan = open_source(str(tmp_path / "a.parquet"), LABELS, shard_rows=10)
    list(plan.source.read(plan.units[0]))
    next(plan.source.read(plan.units[1]))
    assert [row.id for row in plan.source.read(plan.units[1])] == [f"a.parquet#{i}" for i in range(10, 20)]


def test_parquet_classes_are_matched_by_name(pictures, tmp_path):
    write_parquet(tmp_path / "a.parquet", pictures[:3], [0, 1, 2], classes=("dog", "horse", "cat"))
    assert [row.truth for row in read_rows(open_source(str(tmp_path / "a.parquet"), LABELS))] == [1, None, 0]


def test_a_struct_of_bytes_is_read_and_a_wrong_column_named(pictures, tmp_path):
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"img": [{"bytes": pictures[0], "path": "x"}, {"bytes": None, "path": "y"}]}), path)
    assert [row.content for row in read_rows(open_source(str(path), LABELS, column="img"))] == [pictures[0], b""]
    with pytest.raises(DataError, match=r"column 'image' is missing, .*choose another of img with --column"):
        open_source(str(path), LABELS)


def test_damaged_parquet_files_become_rows_with_a_problem(pictures, tmp_path):
    for name in ("a", "b", "c"):
        table = pa.table({"image": pictures})
        pq.write_table(table, tmp_path / f"{name}.parquet", row_group_size=10, use_dictionary=False, compression="none")
    (tmp_path / "a.parquet").write_bytes(b"PAR1 nothing")
    damaged = bytearray((tmp_path / "b.parquet").read_bytes())
    at = pq.ParquetFile(tmp_path / "b.parquet").metadata.row_group(2).column(0).data_page_offset
    damaged[at : at + 40] = bytes(40)
    (tmp_path / "b.parquet").write_bytes(damaged)
    rows = read_rows(open_source(str(tmp_path), LABELS, shard_rows=40))
    assert len({row.id for row in rows}) == len(rows) == 81
    bad = [row for row in rows if row.problem]
    assert "not readable as Parquet" in bad[0].problem
    assert [row.id for row in bad[1:]] == [f"b.parquet#{i}" for i in range(20, 30)]
    assert all("row group 2 of the file is damaged" in row.problem for row in bad[1:])


def test_rows_of_a_file_that_has_gone_since_the_plan_have_a_problem(pictures, tmp_path):
    write_parquet(tmp_path / "a.parquet", pictures[:3], [0] * 3)
    plan = open_source(str(tmp_path / "a.parquet"), LABELS)
    pq.write_table(pa.table({"other": [1]}), tmp_path / "a.parquet")
    assert ["cannot be read any more" in row.problem for row in read_rows(plan)] == [True] * 3
    (tmp_path / "a.parquet").unlink()
    assert ["cannot be read any more" in row.problem for row in read_rows(plan)] == [True] * 3
