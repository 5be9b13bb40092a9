"""open_source(): find the files of a source, local or remote, and plan how to read them."""

from __future__ import annotations

import hashlib
import os
import posixpath
from pathlib import Path
from typing import Any

from fsspec.implementations.local import LocalFileSystem

from abnn_serve.errors import DataError, one_line
from abnn_serve.media.limits import ImageLimits
from abnn_serve.scoring.plan import Plan, SourceFile
from abnn_serve.scoring.shard import FILES, PREDICTIONS
from abnn_serve.scoring.sources.files import LISTS, SUFFIXES, plan_folder, plan_list, read_list
from abnn_serve.scoring.sources.filesystem import locate
from abnn_serve.scoring.sources.parquet import plan_parquet
from abnn_serve.scoring.sources.tars import TARS, plan_tars
from abnn_serve.spec import Labels, Modality

_PARQUET = (".parquet", ".pq")
_EXPECTED = "expected a folder, Parquet files, WebDataset tars, or a .csv or .jsonl list with a column `path`"


def open_source(
    name: str,
    labels: Labels,
    *,
    modality: Modality = "image",
    shard_rows: int = 4096,
    column: str | None = None,
    out: Path | None = None,
    max_bytes: int = ImageLimits().max_bytes,
    allow_remote: bool = False,
) -> Plan:
    """Plan the units of a source, without reading its samples.

    Args:
        name: folder, file or glob pattern, as a local path or an fsspec URL. It matches one of:
            images or videos: the name of a file's folder is its label, if the bundle has a class of that name;
            Parquet files: encoded samples in `column`, optionally class numbers or names in `label`, and optionally
            the class names, one per line, under the key `classes` of the schema's metadata;
            WebDataset tars: for each key a sample and optionally a label with the suffix `cls`;
            one .csv or .jsonl list with a column `path` and optionally `label`.
        labels: classes of the bundle.
        modality: whether image or video files are samples.
        shard_rows: rows per unit; a tar is one unit whatever its size.
        column: Parquet column with the encoded samples; None means the name of the modality.
        out: output directory of the run, whose files are not part of the source.
        max_bytes: of one encoded sample in a Parquet file or tar.
        allow_remote: let a list name files outside its folder, and URLs.

    Raises:
        DataError: there are no files, none of them can be scored, they are of several types, or a list names an address
            that is not allowed.
    """
    address, files = _list(name, out)
    content = b""
    suffixes, column, samples = SUFFIXES[modality], column or modality, f"{modality}s"
    if len(files) == 1 and files[0].name.lower().endswith(LISTS):
        content = read_list(files[0])
        source, units = plan_list(files[0], content, labels, shard_rows, allow_remote=allow_remote)
    else:
        by_type = {
            samples: [file for file in files if file.name.lower().endswith(suffixes)],
            "Parquet files": [file for file in files if file.name.lower().endswith(_PARQUET)],
            "tars": [file for file in files if file.name.lower().endswith(TARS)],
        }
        by_type = {kind: matches for kind, matches in by_type.items() if matches}
        if not by_type:
            raise DataError(f"{name}: no {samples} among {len(files):,} files; {_EXPECTED}")
        if len(by_type) > 1:
            counts = " and ".join(f"{len(matches):,} {kind}" for kind, matches in by_type.items())
            raise DataError(f"{name} has {counts}; choose one type with a quoted pattern such as '{name}/*.tar'")
        ((kind, matches),) = by_type.items()
        if kind == samples:
            source, units = plan_folder(matches, labels, shard_rows)
        elif kind == "tars":
            source, units = plan_tars(matches, labels, modality, max_bytes)
        else:
            source, units = plan_parquet(matches, labels, shard_rows, column, max_bytes)
    state = hashlib.sha256(f"{address}\n".encode(errors="surrogateescape"))
    for file in files:
        state.update(f"{file.name}\0{file.size}\n".encode(errors="surrogateescape"))
    state.update(content)
    return Plan(source=source, units=tuple(units), shard_rows=shard_rows, column=column, digest=state.hexdigest())


def _list(name: str, out: Path | None) -> tuple[str, list[SourceFile]]:
    """The full address of a source, and its files in name order, without hidden files and the output of a run."""
    try:
        system, path = locate(name)
        path = posixpath.normpath(path) if isinstance(system, LocalFileSystem) else path
        if system.isfile(path):
            root, details = posixpath.dirname(path), {path: system.info(path)}
        elif system.isdir(path):
            root, details = path, system.find(path, detail=True)
        else:
            steps = path.split("/")
            fixed = next((i for i, step in enumerate(steps) if set(step) & set("*?[")), len(steps) - 1)
            root, details = "/".join(steps[:fixed]), system.glob(path, detail=True)
    except ImportError as error:
        raise DataError(f"{name}: {one_line(error)}") from error  # fsspec names the package to install
    except Exception as error:  # every file system has its own exceptions
        raise DataError(f"{name}: cannot be listed: {one_line(error)}") from error
    files = [
        SourceFile(
            address=_address(system, path), name=posixpath.relpath(path, root or "/"), size=int(info["size"] or 0)
        )
        for path, info in sorted(details.items())
        if info["type"] == "file"
    ]
    files = [file for file in files if not any(step.startswith(".") for step in file.name.split("/"))]
    if not files:
        raise DataError(f"{name}: no such file or folder; {_EXPECTED}")
    if out and isinstance(system, LocalFileSystem):
        files = _without_output(files, root, out)
        if not files:
            raise DataError(f"{name} is output of a run with --out {out}, expected samples; choose another --out")
    return _address(system, path), files


def _without_output(files: list[SourceFile], root: str, out: Path) -> list[SourceFile]:
    """Drop the files that a run writes to `out`, so that it can resume even if its output is inside its source."""
    root, folder = os.path.realpath(root), out.resolve().as_posix()
    shards, outputs = f"{folder}/{PREDICTIONS}/", {f"{folder}/{name}" for name in FILES}
    paths = [posixpath.join(root, file.name) for file in files]
    return [f for f, path in zip(files, paths, strict=True) if path not in outputs and not path.startswith(shards)]


def _address(system: Any, path: str) -> str:
    return path if isinstance(system, LocalFileSystem) else str(system.unstrip_protocol(path))
