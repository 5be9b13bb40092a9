from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from abnn_serve.errors import DataError
from abnn_serve.media.image import ImageLimits
from abnn_serve.media.limits import VideoLimits
from abnn_serve.scoring.decode import Decoder
from abnn_serve.scoring.plan import Plan, Row, Truth
from abnn_serve.scoring.sources.open import open_source
from abnn_serve.spec import InputSpec, Labels
from tests.drawing import write_parquet

LABELS = Labels(names=("cat", "dog", "7"))


def _rows(plan: Plan) -> list[Row]:
    return [row for unit in plan.units for row in plan.source.read(unit)]


def _tar(path: Path, files: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w") as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def test_a_folder_gives_its_images_by_name_with_the_classes_that_the_bundle_knows(folder):
    rows = _rows(open_source(str(folder), LABELS, shard_rows=5))
    assert [row.id for row in rows] == sorted(row.id for row in rows)
    assert len(rows) == 32
    assert {row.id.split("/")[0]: row.truth for row in rows} == {"cat": 0, "dog": 1}
    assert all(Path(str(row.content)).is_file() for row in rows)


def test_a_plan_tells_a_changed_source(folder):
    before = open_source(str(folder), LABELS).digest
    assert open_source(str(folder) + "/", LABELS).digest == before
    (folder / "cat" / "new.png").write_bytes(b"x")
    assert open_source(str(folder), LABELS).digest != before


@pytest.mark.parametrize(("kind", "text"), [("csv", "path\n{}\n"), ("jsonl", '{{"path": "{}"}}\n')])
def test_a_plan_tells_a_list_of_the_same_size_that_names_other_files(kind, text, tmp_path):
    path = tmp_path / f"list.{kind}"
    path.write_text(text.format("a.png"))
    before = open_source(str(path), LABELS).digest
    assert open_source(str(path), LABELS).digest == before
    path.write_text(text.format("b.png"))
    assert open_source(str(path), LABELS).digest != before


def test_parquet_is_cut_across_row_groups_and_read_from_any_unit(pictures, tmp_path):
    path = tmp_path / "a.parquet"
    write_parquet(path, pictures, range(len(pictures)), classes=())
    pq.write_table(pq.read_table(path), path, row_group_size=7)
    plan = open_source(str(path), LABELS, shard_rows=9)
    assert [unit.rows for unit in plan.units] == [9, 9, 9, 9, 4]
    rows = _rows(plan)
    assert [row.content for row in rows] == pictures
    assert [row.id for row in rows] == [f"a.parquet#{i}" for i in range(40)]
    fresh = open_source(str(path), LABELS, shard_rows=9)
    backwards = [list(fresh.source.read(unit)) for unit in reversed(fresh.units)]
    assert [row for unit in reversed(backwards) for row in unit] == rows


def test_a_reader_that_was_left_in_the_middle_of_a_unit_begins_it_again(pictures, tmp_path):
    write_parquet(tmp_path / "a.parquet", pictures, [0] * 40)
    plan = open_source(str(tmp_path / "a.parquet"), LABELS, shard_rows=10)
    list(plan.source.read(plan.units[0]))
    next(plan.source.read(plan.units[1]))
    assert [row.id for row in plan.source.read(plan.units[1])] == [f"a.parquet#{i}" for i in range(10, 20)]


def test_parquet_classes_are_matched_by_name(pictures, tmp_path):
    write_parquet(tmp_path / "a.parquet", pictures[:3], [0, 1, 2], classes=("dog", "horse", "cat"))
    assert [row.truth for row in _rows(open_source(str(tmp_path / "a.parquet"), LABELS))] == [1, None, 0]


def test_a_struct_of_bytes_is_read_and_a_wrong_column_named(pictures, tmp_path):
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"img": [{"bytes": pictures[0], "path": "x"}, {"bytes": None, "path": "y"}]}), path)
    assert [row.content for row in _rows(open_source(str(path), LABELS, column="img"))] == [pictures[0], b""]
    with pytest.raises(DataError, match=r"column 'image' is not there, .*it has img: name one with --column"):
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
    rows = _rows(open_source(str(tmp_path), LABELS, shard_rows=40))
    assert len({row.id for row in rows}) == len(rows) == 81
    bad = [row for row in rows if row.problem]
    assert "not readable as Parquet" in bad[0].problem
    assert [row.id for row in bad[1:]] == [f"b.parquet#{i}" for i in range(20, 30)]
    assert all("row group 2 of the file is damaged" in row.problem for row in bad[1:])


def test_tars_are_read_by_key_whatever_is_wrong_with_them(pictures, tmp_path):
    files = {"a/1.png": pictures[0], "a/1.cls": b"1", "a/2.cls": b"0", "a/3.JPG": pictures[1], ".hidden.png": b""}
    whole = _tar(tmp_path / "1.tar", files)
    (tmp_path / "2.tar").write_bytes(whole.read_bytes()[: 512 + len(pictures[0]) // 2])
    (tmp_path / "3.tar").write_bytes(b"")
    rows = _rows(open_source(str(tmp_path / "*.tar"), LABELS))
    assert [(row.id, row.truth, bool(row.content)) for row in rows[:3]] == [
        ("1.tar#a/1", 1, True),
        ("1.tar#a/2", 0, False),
        ("1.tar#a/3", None, True),
    ]
    assert rows[1].problem == "no image among its files (cls)"
    assert [row.id for row in rows[3:]] == ["2.tar#", "3.tar#"]
    assert all("damaged after 0 samples" in row.problem for row in rows[3:])


def test_what_webdataset_writes_is_read(pictures, tmp_path):
    webdataset = pytest.importorskip("webdataset", reason="needs webdataset")
    with webdataset.TarWriter(str(tmp_path / "w.tar")) as writer:
        for i, data in enumerate(pictures[:3]):
            writer.write({"__key__": f"{i:03}", "png": data, "cls": i})
    rows = _rows(open_source(str(tmp_path / "w.tar"), LABELS))
    assert [(row.content, row.truth) for row in rows] == [(pictures[i], i) for i in range(3)]


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_lists_name_files_beside_them_absolute_or_by_url(kind, folder, tmp_path):
    paths = ["in/cat/01.png", str(folder / "dog" / "00.png"), "memory://x/y.png", "in/gone.png"]
    labels = ["cat", "dog", "horse", "cat"]
    path = tmp_path / f"list.{kind}"
    if kind == "csv":
        path.write_text("path,label\n" + "".join(f"{p},{label}\n" for p, label in zip(paths, labels, strict=True)))
    else:
        lines = [json.dumps({"path": p, "label": label}) for p, label in zip(paths, labels, strict=True)]
        path.write_text("\n".join(lines))
    rows = _rows(open_source(str(path), LABELS))
    assert [row.id for row in rows] == [f"list.{kind}#{i}" for i in range(4)]
    assert [row.truth for row in rows] == [0, 1, None, 0]
    assert rows[0].content == str(folder / "cat" / "01.png")
    assert rows[2].content == "memory://x/y.png"


def test_urls_are_listed_by_fsspec(pictures):
    system = fsspec.filesystem("memory")
    system.pipe({"/bucket/cat/1.png": pictures[0], "/bucket/dog/2.png": pictures[1]})
    rows = _rows(open_source("memory://bucket", LABELS))
    assert [(row.id, row.truth) for row in rows] == [("cat/1.png", 0), ("dog/2.png", 1)]
    assert rows[0].content == "memory:///bucket/cat/1.png"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nowhere", "nowhere: no such data; give a folder"),
        ("*.parquet", "no such data"),
        ("texts", "no images among 1 files"),
        ("both", "holds 1 images and 1 tars, expected one kind"),
        ("bad.csv", "has the columns file, expected `path`"),
        ("broken.jsonl", "not readable as a list of files"),
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
    with pytest.raises(DataError, match=message):
        open_source(name, LABELS)


@given(st.one_of(st.text(), st.integers(), st.none(), st.floats(), st.binary()))
def test_a_truth_is_a_class_of_the_bundle_or_none(label):
    assert Truth(LABELS)(label) in {None, 0, 1, 2}


def test_a_class_named_by_digits_is_found_by_name_first():
    assert [Truth(LABELS)(label) for label in ("7", " dog ", "1", 2, -1, 3)] == [2, 1, 1, 2, None, None]


def test_two_colons_in_a_local_name_are_only_a_name(pictures, tmp_path, monkeypatch):
    folder = tmp_path / "a::b"
    folder.mkdir()
    (folder / "b::c.png").write_bytes(pictures[0])
    (folder / "list::1.csv").write_text("path\nb::c.png\n")
    write_parquet(folder / "p::q.parquet", pictures[:1], [0])
    _tar(folder / "t::u.tar", {"1.png": pictures[0]})
    monkeypatch.chdir(tmp_path)
    decode = Decoder(spec=InputSpec(height=32, width=32), limits=ImageLimits(), video_limits=VideoLimits())
    for name in ("a::b/*.png", str(folder / "b::c.png"), "a::b/list::1.csv", "a::b/p::q.parquet", "a::b/t::u.tar"):
        rows = _rows(open_source(name, LABELS))
        assert len(rows) == 1
        assert decode(rows).problems == ("",)
