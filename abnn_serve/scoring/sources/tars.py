"""WebDataset tars: the files that share a name up to its first dot form one row.

They are read with the standard library, because the package `webdataset` imports torch if it is installed.
"""

from __future__ import annotations

import posixpath
import tarfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from abnn_serve.errors import one_line
from abnn_serve.scoring.plan import LabelMap, Row, Source, SourceFile, Unit
from abnn_serve.scoring.sources.files import SUFFIXES
from abnn_serve.scoring.sources.filesystem import open_at
from abnn_serve.spec import Labels, Modality

TARS = (".tar", ".tar.gz", ".tgz")
_MAX_LABEL_BYTES = 1_000
_MAX_HEADER_BYTES = 1 << 20  # of long names and attributes, over all global ones too
_MAX_NAMES = 10  # that a row's problem lists
_GZIP = b"\x1f\x8b"
_EXTENDED = (
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
    tarfile.XHDTYPE,
    tarfile.XGLTYPE,
    tarfile.SOLARIS_XHDTYPE,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class TarUnit(Unit):
    """One tar, which can only be read from its start."""

    file: SourceFile


class TarSource(Source):
    """Samples of tars, in tar order. Of each row only the sample and its label are held in memory."""

    def __init__(self, class_index: LabelMap, modality: Modality, max_bytes: int) -> None:
        self._class_index, self._modality, self._max_bytes = class_index, modality, max_bytes

    def read(self, unit: Unit) -> Iterator[Row]:
        """Yield the samples; a damaged tar yields those before the damage, then one row with a problem."""
        assert isinstance(unit, TarUnit)  # noqa: S101
        name, address = unit.file.name, unit.file.address
        count = 0
        try:
            with open_at(address) as data, _open_tar(data) as archive:
                for key, members in groupby(_members(archive), key=lambda member: member[0]):
                    row = self._row(key, ((suffix, file) for _, suffix, file in members), archive, unit.file)
                    count += 1
                    yield row
        except Exception as error:  # tarfile, zlib and every file system have their own exceptions
            yield Row(
                id=f"{name}#",
                source=address,
                problem=f"the tar is damaged after {count:,} samples: {one_line(error)}",
            )

    def _row(
        self, key: str, members: Iterable[tuple[str, tarfile.TarInfo]], archive: tarfile.TarFile, file: SourceFile
    ) -> Row:
        sample, content, label, size, others = "", b"", b"", 0, []
        for suffix, member in members:
            if suffix == "cls":
                label = _content(archive, member, _MAX_LABEL_BYTES)
            if not f".{suffix}".endswith(SUFFIXES[self._modality]):
                others.append(suffix)
                del others[_MAX_NAMES:]
            elif not sample or suffix < sample:
                sample, size = suffix, member.size
                content = _content(archive, member, self._max_bytes) if size <= self._max_bytes else b""
        problem = "" if sample else f"no {self._modality} among its files ({', '.join(others)})"
        if size > self._max_bytes:
            problem = f"the sample has {size:,} bytes, the limit is {self._max_bytes:,}"
        return Row(
            id=f"{file.name}#{key}",
            source=f"{file.address}#{key}",
            content=content,
            truth=self._class_index(label.decode(errors="replace")),
            problem=problem,
        )


def plan_tars(
    files: Sequence[SourceFile], labels: Labels, modality: Modality, max_bytes: int
) -> tuple[Source, list[Unit]]:
    """Plan one unit per tar; a sample of over `max_bytes` bytes becomes a row with a problem."""
    units: list[Unit] = [TarUnit(index=index, rows=None, file=file) for index, file in enumerate(files)]
    return TarSource(LabelMap(labels), modality, max_bytes), units


class _TarInfo(tarfile.TarInfo):
    """A header whose extensions are limited: tarfile reads each of them into memory."""

    def _proc_member(self, archive: tarfile.TarFile) -> Any:
        if self.type in _EXTENDED:
            read = getattr(archive, "extension_bytes", 0) + self.size if self.type == tarfile.XGLTYPE else self.size
            if read > _MAX_HEADER_BYTES:
                raise OSError(f"a header of {read:,} bytes, the limit is {_MAX_HEADER_BYTES:,}")
            if self.type == tarfile.XGLTYPE:
                archive.extension_bytes = read  # type: ignore[attr-defined]
        return super()._proc_member(archive)  # type: ignore[misc]


def _open_tar(data: Any) -> tarfile.TarFile:
    """Open a tar, packed by gzip or not: xz may need gigabytes to unpack."""
    packed = data.read(len(_GZIP)) == _GZIP
    data.seek(0)
    return tarfile.open(fileobj=data, mode="r|gz" if packed else "r|", tarinfo=_TarInfo)


def _members(archive: tarfile.TarFile) -> Iterator[tuple[str, str, tarfile.TarInfo]]:
    """Yield the key, lower-case suffix and header of every regular file."""
    for member in archive:
        base, _, suffix = posixpath.basename(member.name).partition(".")
        if member.isfile() and base and suffix:
            yield posixpath.join(posixpath.dirname(member.name), base), suffix.lower(), member
        archive.members = []  # type: ignore[attr-defined]  # tarfile keeps every header otherwise


def _content(archive: tarfile.TarFile, member: tarfile.TarInfo, count: int) -> bytes:
    stream = archive.extractfile(member)
    content = stream.read(count) if stream else b""
    if len(content) < min(member.size, count):
        raise tarfile.ReadError("unexpected end of data")
    return content
