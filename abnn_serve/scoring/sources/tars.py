"""WebDataset tars: files that share a name up to its first dot are one row.

Read with the standard library: the package `webdataset` imports torch wherever it is installed.
"""

from __future__ import annotations

import posixpath
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

from abnn_serve.errors import one_line
from abnn_serve.scoring.plan import Found, Row, Source, Truth, Unit
from abnn_serve.scoring.sources.files import SUFFIXES
from abnn_serve.scoring.sources.filesystem import open_at
from abnn_serve.spec import Labels, Modality

TARS = (".tar", ".tar.gz", ".tgz")
_LARGEST = 200_000_000  # bytes of one member that are held


@dataclass(frozen=True, slots=True, kw_only=True)
class TarUnit(Unit):
    """A whole tar: it can only be read from its beginning."""

    file: Found


class TarSource(Source):
    """Samples of tars, in the order of the tar."""

    def __init__(self, truth: Truth, modality: Modality) -> None:
        self._truth, self._modality = truth, modality

    def read(self, unit: Unit) -> Iterator[Row]:
        """The samples; a damaged tar gives those before the damage and one row that says so."""
        assert isinstance(unit, TarUnit)  # noqa: S101
        name, address = unit.file.name, unit.file.address
        count = 0
        try:
            for key, group in groupby(_members(address), key=lambda member: member[0]):
                row = self._row(key, {suffix: data for _, suffix, data in group}, unit.file)
                count += 1
                yield row
        except Exception as error:  # tarfile, zlib and every file system raise their own
            yield Row(
                id=f"{name}#",
                source=address,
                problem=f"the tar is damaged after {count:,} samples: {one_line(error)}",
            )

    def _row(self, key: str, parts: dict[str, bytes], file: Found) -> Row:
        samples = sorted(suffix for suffix in parts if f".{suffix}".endswith(SUFFIXES[self._modality]))
        label = parts.get("cls", b"").decode(errors="replace")
        return Row(
            id=f"{file.name}#{key}",
            source=f"{file.address}#{key}",
            content=parts[samples[0]] if samples else b"",
            truth=self._truth(label),
            problem="" if samples else f"no {self._modality} among its files ({', '.join(parts)})",
        )


def plan_tars(files: Sequence[Found], labels: Labels, modality: Modality) -> tuple[Source, list[Unit]]:
    """One unit for each tar."""
    return TarSource(Truth(labels), modality), [TarUnit(index=i, rows=None, file=file) for i, file in enumerate(files)]


def _members(address: str) -> Iterator[tuple[str, str, bytes]]:
    """Key, suffix in lower case, and content of every plain file."""
    with open_at(address) as data, tarfile.open(fileobj=data, mode="r|*") as archive:
        for member in archive:
            base, _, suffix = posixpath.basename(member.name).partition(".")
            if not member.isfile() or not base or not suffix:
                continue
            content = archive.extractfile(member)
            data_read = content.read(_LARGEST) if content else b""
            if len(data_read) < min(member.size, _LARGEST):
                raise tarfile.ReadError("unexpected end of data")
            yield posixpath.join(posixpath.dirname(member.name), base), suffix.lower(), data_read
            archive.members = []  # type: ignore[attr-defined]  # else it keeps every header
