"""Folders of videos to clips and labels: a folder for each class, and a file that says which are in a split."""

from __future__ import annotations

import csv
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np

from abnn_serve.errors import DataError, InputError
from abnn_serve.hardware import usable_cores
from abnn_serve.lab.data.dataset import ImageData, room_for
from abnn_serve.media.container import SUFFIXES
from abnn_serve.media.limits import VideoLimits
from abnn_serve.media.video import decode_video
from abnn_serve.spec import InputSpec, Labels

MAX_CORRUPT = 0.01
_LIMITS = VideoLimits(max_bytes=1_000_000_000, max_frames=200_000, max_seconds=7200.0, decode_seconds=600.0)


class _Video(NamedTuple):
    path: Path
    label: int


def load_clips(source: str, spec: InputSpec) -> ImageData:
    """Read the clips of a labelled set of videos; beyond 2 GiB of pixels they are kept in a temporary file.

    Args:
        source: a folder with one folder of videos for each class; or `FOLDER:LIST`, the videos of FOLDER that the text
            file LIST names first in each line (UCF-101's trainlist01.txt), by a path whose last folder is the class; or
            `FOLDER:LIST:SPLIT`, those that the table LIST (.tsv or .csv with the columns file, split and, unless the
            file's folder is the class, label) has in SPLIT.
        spec: the size and the sampling, as they will be in serving.

    Raises:
        DataError: missing, empty, or more than 1% corrupt videos (one at least may be).
    """
    assert spec.sampling is not None  # noqa: S101
    videos, classes = _listed(source)
    each = spec.sampling.clips * spec.sampling.crops
    images = room_for((len(videos) * each, *spec.shape))

    def decode(index: int) -> tuple[int, str | None]:
        try:
            found = decode_video(videos[index].path.read_bytes(), spec, _LIMITS).pixels
        except (InputError, OSError) as error:
            return 0, f"{videos[index].path}: {error}"
        images[index * each : index * each + len(found)] = found
        return len(found), None

    with ThreadPoolExecutor(usable_cores()) as pool:  # FFmpeg releases the interpreter lock while it decodes
        counts, problems = zip(*pool.map(decode, range(len(videos))), strict=True)
    corrupt = tuple(problem for problem in problems if problem)
    if len(corrupt) > max(1, MAX_CORRUPT * len(videos)) or len(corrupt) == len(videos):
        raise DataError(
            f"{source}: {len(corrupt)} of {len(videos)} videos are corrupt, the limit is {MAX_CORRUPT:.0%}; "
            f"the first: {corrupt[0]}"
        )
    used = np.arange(len(images)) % each < np.repeat(counts, each)
    return ImageData(
        source=source,
        images=images if used.all() else images[used],
        labels=np.repeat([video.label for video in videos], counts).astype(np.int64),
        classes=classes,
        corrupt=corrupt,
        videos=np.repeat(np.arange(len(videos)), counts),
    )


def names_videos(source: str) -> bool:
    """Whether `load_clips` would find videos in a source."""
    try:
        return bool(_listed(source)[0])
    except DataError:
        return False


def _listed(source: str) -> tuple[list[_Video], Labels]:
    root, listing, split = _parts(source)
    if listing is None:
        found = [(path, path.parent.name) for path in sorted(root.glob("*/*")) if path.suffix.lower() in SUFFIXES]
    elif split is None:
        names = [line.split()[0] for line in _text(listing).splitlines() if line.strip()]
        found = [(root / name, Path(name).parent.name) for name in names]
    else:
        found = [
            (root / row["file"], row.get("label") or Path(row["file"]).parent.name) for row in _table(listing, split)
        ]
    if not found:
        raise DataError(f"{source}: no videos found, expected <class>/<video> in {', '.join(sorted(SUFFIXES))}")
    if missing := [path for path, _ in found if not path.is_file()]:
        raise DataError(f"{source}: {len(missing)} of the videos listed are not there; the first: {missing[0]}")
    names = sorted({name for _, name in found})
    return [_Video(path, names.index(name)) for path, name in found], Labels(names=tuple(names))


def _parts(source: str) -> tuple[Path, Path | None, str | None]:
    """The folder, the list and the split that a source names."""
    if Path(source).is_dir():
        return Path(source), None, None
    parts = source.split(":")
    if len(parts) in (2, 3) and Path(parts[0]).is_dir() and Path(parts[1]).is_file():
        return Path(parts[0]), Path(parts[1]), parts[2] if len(parts) == 3 else None
    raise DataError(
        f"{source}: no such videos; give a folder of class folders, FOLDER:LIST or FOLDER:LIST:SPLIT, or motions:SOURCE"
    )


def _table(listing: Path, split: str) -> list[dict[str, str]]:
    rows = list(csv.DictReader(_text(listing).splitlines(), delimiter="\t" if listing.suffix == ".tsv" else ","))
    if not rows or not {"file", "split"} <= rows[0].keys():
        raise DataError(f"{listing}: expected a table with the columns file and split")
    chosen = [row for row in rows if row["split"] == split]
    if not chosen:
        raise DataError(f"{listing}: has no split {split!r}, only {', '.join(sorted({row['split'] for row in rows}))}")
    return chosen


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: not a readable list of videos") from error
