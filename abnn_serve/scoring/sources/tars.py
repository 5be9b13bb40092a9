"""WebDataset tars: the files that share a name up to its first dot form one row.

They are read with the standard library, because the package `webdataset` imports torch if it is installed.
"""

from __future__ import annotations

import posixpath
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

from abnn_serve.errors import one_line
from abnn_serve.scoring.plan import LabelMap, Row, Source, SourceFile, Unit
from abnn_serve.scoring.sources.files import SUFFIXES
from abnn_serve.scoring.sources.filesystem import open_at
from abnn_serve.spec import Labels, Modality

TARS = (".tar", ".tar.gz", ".tgz")
_MAX_MEMBER_BYTES = 200_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class TarUnit(Unit):
    """One tar, which can only be read from its start."""

    file: SourceFile


class TarSource(Source):
    """Samples of tars, in tar order."""

    def __init__(self, class_index: LabelMap, modality: Modality) -> None:
        self._class_index, self._modality = class_index, modality

    def read(self, unit: Unit) -> Iterator[Row]:
        """Yield the samples; a damaged tar yields those before the damage, then one row with a problem."""
        assert isinstance(unit, TarUnit)  # noqa: S101
        name, address = unit.file.name, unit.file.address
        count = 0
        try:
            for key, group in groupby(_members(address), key=lambda member: member[0]):
                row = self._row(key, {suffix: data for _, suffix, data in group}, unit.file)
                count += 1
                yield row
        except Exception as error:  # tarfile, zlib and every file system have their own exceptions
            yield Row(
                id=f"{name}#",
                source=address,
                problem=f"the tar is damaged after {count:,} samples: {one_line(error)}",
            )

    def _row(self, key: str, parts: dict[str, bytes], file: SourceFile) -> Row:
        samples = sorted(suffix for suffix in parts if f".{suffix}".endswith(SUFFIXES[self._modality]))
        label = parts.get("cls", b"").decode(errors="replace")
        return Row(
            id=f"{file.name}#{key}",
            source=f"{file.address}#{key}",
            content=parts[samples[0]] if samples else b"",
            truth=self._class_index(label),
            problem="" if samples else f"no {self._modality} among its files ({', '.join(parts)})",
        )


def plan_tars(files: Sequence[SourceFile], labels: Labels, modality: Modality) -> tuple[Source, list[Unit]]:
    """Plan one unit per tar."""
    units: list[Unit] = [TarUnit(index=index, rows=None, file=file) for index, file in enumerate(files)]
    return TarSource(LabelMap(labels), modality), units


def _members(address: str) -> Iterator[tuple[str, str, bytes]]:
    """Yield the key, lower-case suffix and content of every regular file."""
    with open_at(address) as data, tarfile.open(fileobj=data, mode="r|*") as archive:
        for member in archive:
            base, _, suffix = posixpath.basename(member.name).partition(".")
            if not member.isfile() or not base or not suffix:
                continue
            stream = archive.extractfile(member)
            content = stream.read(_MAX_MEMBER_BYTES) if stream else b""
            if len(content) < min(member.size, _MAX_MEMBER_BYTES):
                raise tarfile.ReadError("unexpected end of data")
            yield posixpath.join(posixpath.dirname(member.name), base), suffix.lower(), content
            archive.members = []  # type: ignore[attr-defined]  # tarfile keeps every header otherwise
