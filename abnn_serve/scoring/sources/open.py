"""A source by name, local or a URL, to a plan: what to read, in which units."""

from __future__ import annotations

import hashlib
import os
import posixpath
from pathlib import Path
from typing import Any

from fsspec.implementations.local import LocalFileSystem

from abnn_serve.errors import DataError, one_line
from abnn_serve.scoring.plan import Found, Plan
from abnn_serve.scoring.shard import FILES, PREDICTIONS
from abnn_serve.scoring.sources.files import LISTS, SUFFIXES, plan_folder, plan_list, read_list
from abnn_serve.scoring.sources.filesystem import locate
from abnn_serve.scoring.sources.parquet import plan_parquet
from abnn_serve.scoring.sources.tars import TARS, plan_tars
from abnn_serve.spec import Labels, Modality

_PARQUET = (".parquet", ".pq")
_EXPECTED = "give a folder, Parquet files, WebDataset tars, or a .csv or .jsonl list with a column `path`"


def open_source(
    name: str,
    labels: Labels,
    *,
    modality: Modality = "image",
    shard_rows: int = 4096,
    column: str | None = None,
    out: Path | None = None,
) -> Plan:
    """Look at a source without reading its samples.

    Args:
        name: a folder, a file or a quoted pattern, local or an fsspec URL, of images or videos, Parquet files (encoded
            samples in `column`, optionally `label`, class names one a line under the schema's metadata key `classes`),
            WebDataset tars (a sample, optionally `cls`, for each key); or a .csv or .jsonl file with a column `path`,
            optionally `label`. In a folder of samples a parent folder named as a class is the label.
        labels: of the bundle.
        modality: which files are samples.
        shard_rows: rows of one shard; a tar is one shard whatever it holds.
        column: of the encoded samples in Parquet; the modality's name if None.
        out: directory of the output; what a run writes there is left out.

    Raises:
        DataError: nothing there, nothing that can be scored, or several kinds at once.
    """
    address, found = _list(name, out)
    content = b""
    suffixes, column, samples = SUFFIXES[modality], column or modality, f"{modality}s"
    if len(found) == 1 and found[0].name.lower().endswith(LISTS):
        content = read_list(found[0])
        source, units = plan_list(found[0], content, labels, shard_rows)
    else:
        kinds = {
            samples: [file for file in found if file.name.lower().endswith(suffixes)],
            "Parquet files": [file for file in found if file.name.lower().endswith(_PARQUET)],
            "tars": [file for file in found if file.name.lower().endswith(TARS)],
        }
        there = [kind for kind, files in kinds.items() if files]
        if not there:
            raise DataError(f"{name}: no {samples} among {len(found):,} files; {_EXPECTED}")
        if len(there) > 1:
            held = " and ".join(f"{len(kinds[kind]):,} {kind}" for kind in there)
            raise DataError(f"{name} holds {held}, expected one kind; give a quoted pattern such as '{name}/*.tar'")
        files = kinds[there[0]]
        if there == [samples]:
            source, units = plan_folder(files, labels, shard_rows)
        elif there == ["tars"]:
            source, units = plan_tars(files, labels, modality)
        else:
            source, units = plan_parquet(files, labels, shard_rows, column)
    state = hashlib.sha256(f"{address}\n".encode(errors="surrogateescape"))
    for file in found:
        state.update(f"{file.name}\0{file.size}\n".encode(errors="surrogateescape"))
    state.update(content)
    return Plan(source=source, units=tuple(units), shard_rows=shard_rows, column=column, digest=state.hexdigest())


def _list(name: str, out: Path | None) -> tuple[str, list[Found]]:
    """The whole address of a folder, a pattern or one file, and its files by name, but hidden ones and a run's own."""
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
        raise DataError(f"{name}: {one_line(error)}") from error  # fsspec says which package to install
    except Exception as error:  # each file system raises its own
        raise DataError(f"{name}: cannot be listed: {one_line(error)}") from error
    found = [
        Found(address=_address(system, path), name=posixpath.relpath(path, root or "/"), size=int(info["size"] or 0))
        for path, info in sorted(details.items())
        if info["type"] == "file"
    ]
    found = [file for file in found if not any(step.startswith(".") for step in file.name.split("/"))]
    if not found:
        raise DataError(f"{name}: no such data; {_EXPECTED}")
    if out and isinstance(system, LocalFileSystem):
        found = _without_output(found, root, out)
        if not found:
            raise DataError(f"{name} is output of a run to {out}, expected samples; choose another --out")
    return _address(system, path), found


def _without_output(found: list[Found], root: str, out: Path) -> list[Found]:
    """The files below `root` that no run to `out` writes, so that a run goes on where its output lies in its source."""
    root, folder = os.path.realpath(root), out.resolve().as_posix()
    shards, own = f"{folder}/{PREDICTIONS}/", {f"{folder}/{name}" for name in FILES}
    paths = [posixpath.join(root, file.name) for file in found]
    return [file for file, path in zip(found, paths, strict=True) if path not in own and not path.startswith(shards)]


def _address(system: Any, path: str) -> str:
    return path if isinstance(system, LocalFileSystem) else str(system.unstrip_protocol(path))
