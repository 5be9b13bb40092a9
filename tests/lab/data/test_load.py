from __future__ import annotations

import io

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from abnn_serve.errors import DataError
from abnn_serve.lab.data.load import agree, load_data
from abnn_serve.spec import InputSpec, Labels
from tests.conftest import CLIPS, SPEC
from tests.drawing import SHAPES, draw_shape, png, write_parquet


def _images(count: int) -> list[bytes]:
    rng = np.random.default_rng(0)
    return [png(draw_shape(i % 3, rng)) for i in range(count)]


def test_parquet_gives_pixels_labels_and_class_names(tmp_path):
    images = _images(4)
    write_parquet(tmp_path / "a.parquet", images, [0, 1, 2, 0])
    data = load_data(str(tmp_path / "a.parquet"), SPEC)
    assert data.images.shape == (4, 32, 32, 3)
    assert data.classes.names == SHAPES
    assert data.labels.tolist() == [0, 1, 2, 0]
    assert np.array_equal(data.images[1], np.asarray(Image.open(io.BytesIO(images[1]))))


def test_a_pattern_reads_its_files_in_order(tmp_path):
    write_parquet(tmp_path / "x-1.parquet", _images(1), [1])
    write_parquet(tmp_path / "x-0.parquet", _images(2), [0, 2])
    assert load_data(str(tmp_path / "x-*.parquet"), SPEC).labels.tolist() == [0, 2, 1]


@pytest.mark.parametrize(
    ("rows", "labels"),
    [("[:3]", [0, 1, 2]), ("[3:]", [0, 1]), ("[1:4]", [1, 2, 0]), ("[-2:]", [0, 1]), ("[:]", [0, 1, 2, 0, 1])],
)
def test_a_row_range_is_a_part_of_a_source(tmp_path, rows, labels):
    for name, part in (("x-0", [0, 1]), ("x-1", [2, 0, 1])):
        write_parquet(tmp_path / f"{name}.parquet", _images(len(part)), part, ())
    part = load_data(str(tmp_path / f"x-*.parquet{rows}"), SPEC)
    assert part.labels.tolist() == labels
    assert len(part.classes) == 3
    assert part.name == f"x-*.parquet{rows}"


@pytest.mark.parametrize("rows", ["[5:]", "[:6]", "[3:2]", "[-6:]", "[2:2]"])
def test_an_empty_or_out_of_range_row_range_is_an_error(tmp_path, rows):
    write_parquet(tmp_path / "a.parquet", _images(5), [0, 1, 2, 0, 1])
    with pytest.raises(DataError, match="selects no rows or goes past the end, expected a range within its 5 rows"):
        load_data(str(tmp_path / f"a.parquet{rows}"), SPEC)


def test_a_row_range_of_clips_is_refused(tmp_path):
    with pytest.raises(DataError, match="a row range selects images, but --sampling reads clips"):
        load_data(f"{tmp_path}[:3]", CLIPS)


def test_images_of_another_size_are_brought_to_the_input(tmp_path):
    write_parquet(tmp_path / "a.parquet", [png(Image.new("RGB", (100, 60), "red"))], [0])
    data = load_data(str(tmp_path / "a.parquet"), InputSpec(height=16, width=24))
    assert data.images.shape == (1, 16, 24, 3)
    assert (data.images == [255, 0, 0]).all()


def test_a_struct_column_with_bytes_is_read_as_hugging_face_writes_it(tmp_path):
    table = pa.table({"image": [{"bytes": image, "path": None} for image in _images(2)], "label": [0, 1]})
    pq.write_table(table, tmp_path / "a.parquet")
    data = load_data(str(tmp_path / "a.parquet"), SPEC)
    assert len(data) == 2
    assert data.classes.names == ("0", "1")


def test_a_folder_of_class_folders_is_read(tmp_path):
    for name, image in zip(("cat", "dog"), _images(2), strict=True):
        (tmp_path / name).mkdir()
        (tmp_path / name / "1.png").write_bytes(image)
        (tmp_path / name / "notes.txt").write_text("not an image")
    (tmp_path / ".hidden").mkdir()
    data = load_data(str(tmp_path), SPEC)
    assert data.classes.names == ("cat", "dog")
    assert data.labels.tolist() == [0, 1]


def test_the_digest_depends_on_content_and_not_on_the_file(tmp_path):
    images = _images(3)
    for name, labels in (("a", [0, 1, 2]), ("b", [0, 1, 2]), ("c", [0, 1, 1])):
        write_parquet(tmp_path / f"{name}.parquet", images, labels)
    a, b, c = (load_data(str(tmp_path / f"{name}.parquet"), SPEC).digest for name in "abc")
    assert a == b != c


def test_a_source_that_is_not_there_is_named(tmp_path):
    with pytest.raises(DataError, match=r"nothing\.parquet: no such file; give a Parquet file"):
        load_data(str(tmp_path / "nothing.parquet"), SPEC)


def test_a_source_without_rows_is_refused(tmp_path):
    write_parquet(tmp_path / "a.parquet", [], [])
    with pytest.raises(DataError, match="has no rows"):
        load_data(str(tmp_path / "a.parquet"), SPEC)


def test_a_folder_without_images_is_refused(tmp_path):
    (tmp_path / "cat").mkdir()
    with pytest.raises(DataError, match="no images found, expected <class>/<image>"):
        load_data(str(tmp_path), SPEC)


def test_a_file_that_is_not_parquet_is_refused(tmp_path):
    (tmp_path / "a.parquet").write_bytes(b"not parquet")
    with pytest.raises(DataError, match="as Parquet with columns image and label"):
        load_data(str(tmp_path / "a.parquet"), SPEC)


def test_one_corrupt_row_in_a_hundred_is_skipped_and_reported(tmp_path):
    images = _images(100)
    images[42] = images[42][:60]
    write_parquet(tmp_path / "a.parquet", images, [i % 3 for i in range(100)])
    data = load_data(str(tmp_path / "a.parquet"), SPEC)
    assert len(data) == 99
    assert len(data.corrupt) == 1
    assert "row 42: " in data.corrupt[0]
    assert data.labels.tolist() == [i % 3 for i in range(100) if i != 42]


def test_more_than_one_percent_of_corrupt_rows_stops(tmp_path):
    images = _images(100)
    images[3], images[4] = b"junk", b""
    write_parquet(tmp_path / "a.parquet", images, [0] * 100)
    with pytest.raises(DataError, match=r"2 of 100 rows are corrupt, the limit is 1%; the first: .* row 3: "):
        load_data(str(tmp_path / "a.parquet"), SPEC)


@pytest.mark.parametrize("label", [3, -1])
def test_a_label_outside_the_classes_is_refused(tmp_path, label):
    write_parquet(tmp_path / "a.parquet", _images(2), [0, label])
    with pytest.raises(DataError, match=rf"row 1: label {label} is not one of 3 classes, expected 0 to 2"):
        load_data(str(tmp_path / "a.parquet"), SPEC)


@pytest.mark.parametrize(
    "columns",
    [
        {"image": [b"x"], "label": ["cat"]},
        {"image": [b"x"], "label": [0.5]},
        {"image": ["x"], "label": [0]},
        {"image": [{"path": "x"}], "label": [0]},
    ],
)
def test_columns_of_other_types_are_refused(tmp_path, columns):
    pq.write_table(pa.table(columns), tmp_path / "a.parquet")
    with pytest.raises(DataError, match="expected encoded bytes and whole numbers"):
        load_data(str(tmp_path / "a.parquet"), SPEC)


def test_classes_must_agree_by_name(tmp_path):
    write_parquet(tmp_path / "a.parquet", _images(3), [0, 1, 2], ("cat", "dog", "fox"))
    write_parquet(tmp_path / "b.parquet", _images(2), [0, 1], ())
    a, b = (load_data(str(tmp_path / f"{name}.parquet"), SPEC) for name in "ab")
    assert agree(a.classes, b).classes == a.classes
    with pytest.raises(DataError, match="has different classes than the network: 'dog', expected 'emu'"):
        agree(Labels(names=("cat", "emu", "fox")), a)
    with pytest.raises(DataError, match="has different classes than the network: 3, expected 2"):
        agree(Labels(names=("cat", "dog")), a)


def test_samples_are_spread_over_the_whole_set(tmp_path):
    write_parquet(tmp_path / "a.parquet", _images(9), [0, 0, 0, 1, 1, 1, 2, 2, 2])
    data = load_data(str(tmp_path / "a.parquet"), SPEC)
    assert data.spread(3).labels.tolist() == [0, 1, 2]
    assert len(data.spread(100)) == 9


def test_a_torchvision_source_must_be_spelt_out():
    with pytest.raises(DataError, match="expected torchvision:NAME:ROOT:SPLIT"):
        load_data("torchvision:CIFAR10", SPEC)


@pytest.mark.parametrize("split", ["Train", "val", ""])
def test_a_split_that_is_not_there_is_not_taken_for_the_test_set(split, tmp_path):
    with pytest.raises(DataError, match=f"CIFAR10 has no split '{split}', expected train or test"):
        load_data(f"torchvision:CIFAR10:{tmp_path}:{split}", SPEC)


def test_a_torchvision_data_set_that_is_not_downloaded_is_an_error(tmp_path):
    with pytest.raises(DataError, match="Dataset not found or corrupted"):
        load_data(f"torchvision:CIFAR10:{tmp_path}:train", SPEC)


def test_a_torchvision_data_set_is_read(tmp_path):
    for name, image in zip(("cat", "dog"), _images(2), strict=True):
        place = tmp_path / "imagenette2" / "val" / name
        place.mkdir(parents=True)
        (place / "1.JPEG").write_bytes(image)
    with pytest.raises(DataError, match="torchvision:Imagenette"):
        load_data(f"torchvision:Imagenette:{tmp_path}:nonsense", SPEC)


@pytest.mark.data
def test_cifar10_is_read_whole(cifar10_test):
    assert cifar10_test.images.shape == (10_000, 32, 32, 3)
    assert np.bincount(cifar10_test.labels).tolist() == [1000] * 10
    assert cifar10_test.classes.names[3] == "cat"
    assert cifar10_test.corrupt == ()
