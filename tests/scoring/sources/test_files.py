from __future__ import annotations

import json
from pathlib import Path

import pytest

from abnn_serve.scoring.sources.open import open_source
from tests.scoring.conftest import LABELS, read_rows


def test_a_folder_gives_its_images_in_name_order_with_their_folders_as_classes(folder):
    rows = read_rows(open_source(str(folder), LABELS, shard_rows=5))
    assert [row.id for row in rows] == sorted(row.id for row in rows)
    assert len(rows) == 32
    assert {row.id.split("/")[0]: row.truth for row in rows} == {"cat": 0, "dog": 1}
    assert all(Path(str(row.content)).is_file() for row in rows)


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_a_list_names_files_relative_to_it_absolute_or_by_url(kind, folder, tmp_path):
    paths = ["in/cat/01.png", str(folder / "dog" / "00.png"), "memory://x/y.png", "in/gone.png"]
    labels = ["cat", "dog", "horse", "cat"]
    path = tmp_path / f"list.{kind}"
    if kind == "csv":
        path.write_text("path,label\n" + "".join(f"{p},{label}\n" for p, label in zip(paths, labels, strict=True)))
    else:
        lines = [json.dumps({"path": p, "label": label}) for p, label in zip(paths, labels, strict=True)]
        path.write_text("\n".join(lines))
    rows = read_rows(open_source(str(path), LABELS))
    assert [row.id for row in rows] == [f"list.{kind}#{i}" for i in range(4)]
    assert [row.truth for row in rows] == [0, 1, None, 0]
    assert rows[0].content == str(folder / "cat" / "01.png")
    assert rows[2].content == "memory://x/y.png"
