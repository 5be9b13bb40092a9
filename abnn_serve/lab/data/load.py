"""Read a labelled data set by name: Parquet files, image folders, torchvision data sets, clips."""

from __future__ import annotations

import glob
import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray
from PIL import Image

from abnn_serve.errors import DataError, InputError, one_line
from abnn_serve.lab.data.clips import load_clips, names_videos
from abnn_serve.lab.data.dataset import ImageData
from abnn_serve.lab.data.motions import MOTIONS, moving
from abnn_serve.media.image import FORMATS, SUFFIXES, fit_image, load_image
from abnn_serve.media.limits import ImageLimits
from abnn_serve.spec import InputSpec, Labels, Sampling

__all__ = ["ImageData", "agree", "load_data"]

MAX_CORRUPT = 0.01
_RANGE = re.compile(r"\[(-?\d+)?:(-?\d+)?\]$")
_LIMITS = ImageLimits(max_bytes=100_000_000, max_pixels=100_000_000)


@dataclass(frozen=True, slots=True)
class _Row:
    where: str
    content: bytes | Path
    label: int


def load_data(source: str, spec: InputSpec) -> ImageData:
    """Read a whole labelled data set into memory, at the input size of `spec`.

    Args:
        source: Parquet file or pattern (columns `image`, encoded bytes or a struct with `bytes`, and `label`; class
            names, one a line, under the schema's metadata key `classes`), folder with a folder of images for each
            class, or `torchvision:NAME:ROOT:SPLIT`, such as `torchvision:CIFAR10:data:train`. `SOURCE[START:STOP]`
            selects rows of a source of images. If `spec` has a `sampling`: folder with a folder of videos for each
            class, `FOLDER:LIST` or `FOLDER:LIST:SPLIT` for videos listed in a file (see `clips.load_clips`), or
            `motions:SOURCE`, clips made by moving a camera over images.
        spec: input of the network; images are resized as in serving.

    Raises:
        DataError: the source is missing or empty, over 1% of its rows are corrupt, or a label is outside the classes.
    """
    if source.startswith("motions:"):
        return _load_motions(source, spec)
    whole, ranged = _without_range(source)
    if spec.sampling:
        if ranged:
            raise DataError(f"{source}: a row range selects images, but --sampling reads clips; leave the range out")
        return load_clips(source, spec)
    if source.startswith("torchvision:"):
        data = _from_torchvision(whole, spec)
        start, stop = _bounds(source, ranged, len(data))
        return replace(data.part(slice(start, stop)), source=source)
    rows, classes = _from_folder(whole) if Path(whole).is_dir() else _from_parquet(whole)
    start, stop = _bounds(source, ranged, len(rows))
    return _decode(source, rows[start:stop], classes, spec)


def _without_range(source: str) -> tuple[str, re.Match[str] | None]:
    """`SOURCE[START:STOP]` to its source and the match of the range."""
    match = _RANGE.search(source)
    return (source[: match.start()], match) if match else (source, None)


def _bounds(source: str, ranged: re.Match[str] | None, count: int) -> tuple[int, int]:
    """First row and the row after the last, of `count`; DataError for an empty or out-of-range selection."""
    if ranged is None:
        return 0, count
    given = [int(text) if text else None for text in ranged.groups()]
    start, stop, _ = slice(*given).indices(count)
    if start >= stop or any(bound is not None and not -count <= bound <= count for bound in given):
        raise DataError(f"{source}: selects no rows or goes past the end, expected a range within its {count} rows")
    return start, stop


def agree(classes: Labels, data: ImageData) -> ImageData:
    """`data` with the class names that a network was trained with; DataError if the classes differ."""
    own = data.classes.names
    if own == classes.names:
        return data
    if own == tuple(map(str, range(len(own)))) and len(own) <= len(classes):  # unnamed classes
        return replace(data, classes=classes)
    first = next(
        (pair for pair in zip(classes.names, own, strict=False) if pair[0] != pair[1]), (len(classes), len(own))
    )
    raise DataError(f"{data.source} has different classes than the network: {first[1]!r}, expected {first[0]!r}")


def _load_motions(source: str, spec: InputSpec) -> ImageData:
    if spec.sampling is None:
        raise DataError(f"{source}: motions are clips; set their length with --sampling frames=N")
    stills = _stills(source.removeprefix("motions:"), spec)
    clips, labels = moving(stills.images, spec.sampling)
    classes = Labels(names=MOTIONS)
    return ImageData(source=source, images=clips, labels=labels, classes=classes, corrupt=stills.corrupt, mirrors=False)


def _stills(source: str, spec: InputSpec) -> ImageData:
    """Images, or the middle frame of each video."""
    if not names_videos(source):
        return load_data(source, replace(spec, sampling=None))
    clips = load_clips(source, replace(spec, sampling=Sampling(frames=1)))
    return replace(clips, images=clips.images[:, 0], videos=None)


def _from_folder(source: str) -> tuple[list[_Row], Labels]:
    folders = sorted(path for path in Path(source).iterdir() if path.is_dir() and not path.name.startswith("."))
    rows = [
        _Row(str(path), path, label)
        for label, folder in enumerate(folders)
        for path in sorted(folder.iterdir())
        if path.suffix.lower() in SUFFIXES
    ]
    if not rows:
        raise DataError(f"{source}: no images found, expected <class>/<image> in {', '.join(FORMATS)}")
    return rows, Labels(names=tuple(folder.name for folder in folders))


def _from_parquet(source: str) -> tuple[list[_Row], Labels]:
    paths = sorted(glob.glob(source))  # noqa: PTH207
    if not paths:
        raise DataError(
            f"{source}: no such file; give a Parquet file, a quoted pattern such as 'train-*.parquet' or a folder"
        )
    rows: list[_Row] = []
    names: str | None = None
    for path in paths:
        table = _read_table(path)
        names = names or (table.schema.metadata or {}).get(b"classes", b"").decode()
        images, labels = table["image"].to_pylist(), table["label"].to_pylist()
        for index, (image, label) in enumerate(zip(images, labels, strict=True)):
            rows.append(_Row(f"{path} row {index}", image or b"", -1 if label is None else label))
    if not rows:
        raise DataError(f"{source} has no rows, expected at least one with columns image and label")
    count = max(row.label for row in rows) + 1
    return rows, Labels(
        names=tuple(names.splitlines()) if names else tuple(str(label) for label in range(max(count, 1)))
    )


def _read_table(path: str) -> pa.Table:
    try:
        table = pq.read_table(path, columns=["image", "label"])
        image, label = table.schema.field("image").type, table.schema.field("label").type
    except (pa.ArrowException, OSError, KeyError) as error:
        reason = one_line(error)
        raise DataError(f"cannot read {path} as Parquet with columns image and label ({reason})") from error
    if pa.types.is_struct(image) and image.get_field_index("bytes") >= 0:
        table = table.set_column(0, "image", pc.struct_field(table["image"], "bytes"))
        image = table.schema.field("image").type
    if not (pa.types.is_binary(image) or pa.types.is_large_binary(image)) or not pa.types.is_integer(label):
        raise DataError(f"{path}: column image is {image} and label {label}, expected encoded bytes and whole numbers")
    return table


def _from_torchvision(source: str, spec: InputSpec) -> ImageData:
    import torchvision

    parts = source.split(":")
    if len(parts) != 4 or not hasattr(torchvision.datasets, parts[1]):
        raise DataError(f"{source}: expected torchvision:NAME:ROOT:SPLIT, such as torchvision:CIFAR10:data:train")
    _, name, root, split = parts
    kind = getattr(torchvision.datasets, name)
    which: dict[str, str | bool] = {"split": split}
    if name.startswith(("CIFAR", "MNIST", "Fashion", "KMNIST")):
        if split not in ("train", "test"):
            raise DataError(f"{source}: {name} has no split {split!r}, expected train or test")
        which = {"train": split == "train"}
    try:
        data = kind(root, **which)
    except (RuntimeError, ValueError, TypeError) as error:
        raise DataError(f"{source}: {one_line(error)}") from error
    images = np.stack([_fit(image, spec) for image, _ in data])
    labels = np.asarray([label for _, label in data], dtype=np.int64)
    classes = Labels(names=tuple(str(c) for c in getattr(data, "classes", range(int(labels.max()) + 1))))
    return ImageData(source=source, images=images, labels=labels, classes=classes)


def _fit(image: Image.Image, spec: InputSpec) -> NDArray[np.uint8]:
    return fit_image(image.convert("RGB"), spec)


def _decode(source: str, rows: list[_Row], classes: Labels, spec: InputSpec) -> ImageData:
    for row in rows:
        if not 0 <= row.label < len(classes):
            raise DataError(
                f"{row.where}: label {row.label} is not one of {len(classes)} classes, expected 0 to {len(classes) - 1}"
            )
    images = np.empty((len(rows), *spec.shape), dtype=np.uint8)

    def decode(index: int) -> str | None:
        row = rows[index]
        try:
            content = row.content if isinstance(row.content, bytes) else row.content.read_bytes()
            images[index] = load_image(content, spec, _LIMITS)
        except (InputError, OSError) as error:
            return f"{row.where}: {error}"
        return None

    with ThreadPoolExecutor() as pool:  # Pillow releases the interpreter lock while it decodes
        problems = list(pool.map(decode, range(len(rows)), chunksize=256))
    good = np.asarray([problem is None for problem in problems])
    corrupt = tuple(problem for problem in problems if problem is not None)
    if len(corrupt) > MAX_CORRUPT * len(rows):
        raise DataError(
            f"{source}: {len(corrupt)} of {len(rows)} rows are corrupt, the limit is {MAX_CORRUPT:.0%}; "
            f"the first: {corrupt[0]}"
        )
    labels = np.asarray([row.label for row in rows], dtype=np.int64)
    if corrupt:
        images, labels = images[good], labels[good]
    return ImageData(source=source, images=images, labels=labels, classes=classes, corrupt=corrupt)
