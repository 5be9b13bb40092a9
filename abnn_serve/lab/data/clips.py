"""Labelled clips from folders of videos, one for each class, or from a list of a split's videos."""

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
    """Read the clips of a labelled set of videos; above 2 GiB of pixels, into a temporary file.

    Args:
        source: one of
            `FOLDER`, with one folder of videos for each class;
            `FOLDER:LIST`, the videos whose paths under FOLDER begin the lines of the text file LIST, as UCF-101's
            trainlist01.txt; a path's last folder is the class;
            `FOLDER:LIST:SPLIT`, the rows of the table LIST, .tsv or .csv, that have SPLIT in the column `split`; the
            column `file` is the path under FOLDER, `label` the class, by default the path's last folder.
        spec: size and sampling, the same as in serving.

    Raises:
        DataError: missing or empty data, or more than 1% corrupt videos (a single one is accepted).
    """
    assert spec.sampling is not None  # noqa: S101
    videos, classes = _list_videos(source)
    per_video = spec.sampling.clips * spec.sampling.crops
    images = room_for((len(videos) * per_video, *spec.shape))

    def decode(index: int) -> tuple[int, str | None]:
        try:
            clips = decode_video(videos[index].path.read_bytes(), spec, _LIMITS).pixels
        except (InputError, OSError) as error:
            return 0, f"{videos[index].path}: {error}"
        images[index * per_video : index * per_video + len(clips)] = clips
        return len(clips), None

    with ThreadPoolExecutor(usable_cores()) as pool:  # FFmpeg releases the interpreter lock while it decodes
        counts, problems = zip(*pool.map(decode, range(len(videos))), strict=True)
    corrupt = tuple(problem for problem in problems if problem)
    if len(corrupt) > max(1, MAX_CORRUPT * len(videos)) or len(corrupt) == len(videos):
        raise DataError(
            f"{source}: {len(corrupt)} of {len(videos)} videos are corrupt, the limit is {MAX_CORRUPT:.0%}; "
            f"the first: {corrupt[0]}"
        )
    used = np.arange(len(images)) % per_video < np.repeat(counts, per_video)
    return ImageData(
        source=source,
        images=images if used.all() else images[used],
        labels=np.repeat([video.label for video in videos], counts).astype(np.int64),
        classes=classes,
        corrupt=corrupt,
        videos=np.repeat(np.arange(len(videos)), counts),
    )


def names_videos(source: str) -> bool:
    """Whether `load_clips` can read a source."""
    try:
        return bool(_list_videos(source)[0])
    except DataError:
        return False


def _list_videos(source: str) -> tuple[list[_Video], Labels]:
    root, listing, split = _parts(source)
    if listing is None:
        files = [(path, path.parent.name) for path in sorted(root.glob("*/*")) if path.suffix.lower() in SUFFIXES]
    elif split is None:
        names = [line.split()[0] for line in _text(listing).splitlines() if line.strip()]
        files = [(root / name, Path(name).parent.name) for name in names]
    else:
        files = [
            (root / row["file"], row.get("label") or Path(row["file"]).parent.name) for row in _table(listing, split)
        ]
    if not files:
        raise DataError(f"{source}: no videos found, expected <class>/<video> in {', '.join(sorted(SUFFIXES))}")
    if missing := [path for path, _ in files if not path.is_file()]:
        raise DataError(f"{source}: {len(missing)} of the listed videos are missing; the first: {missing[0]}")
    names = sorted({name for _, name in files})
    return [_Video(path, names.index(name)) for path, name in files], Labels(names=tuple(names))


def _parts(source: str) -> tuple[Path, Path | None, str | None]:
    """The folder, list and split of a source."""
    if Path(source).is_dir():
        return Path(source), None, None
    parts = source.split(":")
    if len(parts) in (2, 3) and Path(parts[0]).is_dir() and Path(parts[1]).is_file():
        return Path(parts[0]), Path(parts[1]), parts[2] if len(parts) == 3 else None
    raise DataError(
        f"{source}: no such folder of videos; give FOLDER with class folders, FOLDER:LIST, FOLDER:LIST:SPLIT or "
        "motions:SOURCE"
    )


def _table(listing: Path, split: str) -> list[dict[str, str]]:
    rows = list(csv.DictReader(_text(listing).splitlines(), delimiter="\t" if listing.suffix == ".tsv" else ","))
    if not rows or not {"file", "split"} <= rows[0].keys():
        raise DataError(f"{listing}: not a table with the columns file and split")
    selected = [row for row in rows if row["split"] == split]
    if not selected:
        splits = ", ".join(sorted({row["split"] for row in rows}))
        raise DataError(f"{listing}: no split {split!r}, expected one of {splits}")
    return selected


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: not a readable list of videos") from error
