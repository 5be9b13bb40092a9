"""The plan of a scoring run: its rows, grouped into units, and the source that reads them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass

from abnn_serve.spec import Labels


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One sample.

    Attributes:
        id: unique within its source; does not depend on where the source is stored.
        source: path or URL of the sample.
        content: encoded bytes, or the path or URL of the file that holds them.
        within: folder outside which that file must not be; empty allows every address.
        truth: index of the true class in the bundle's labels; None if unknown.
        problem: why the sample has no content; empty if it has.
    """

    id: str
    source: str
    content: bytes | str = b""
    truth: int | None = None
    problem: str = ""
    within: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Unit:
    """A unit of work: rows that are scored together and written as one shard.

    `rows` is their number; None if not known in advance.
    """

    index: int
    rows: int | None


class Source(ABC):
    """Reads the rows of units. It is pickled to other processes and machines, so it holds no data."""

    @abstractmethod
    def read(self, unit: Unit) -> Iterator[Row]:
        """Yield the rows of a unit, always in the same order; a row that cannot be read has a `problem`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """All units of a source.

    Attributes:
        source: reads the units.
        units: at most `shard_rows` rows each; a tar file is one unit whatever its size.
        column: Parquet column with the encoded samples.
        digest: sha256 over the names and sizes of the files and the content of a list; changes with the source.
    """

    source: Source
    units: tuple[Unit, ...]
    shard_rows: int
    column: str
    digest: str

    @property
    def rows(self) -> int | None:
        """Total number of rows; None if not known in advance."""
        counts = [unit.rows for unit in self.units if unit.rows is not None]
        return sum(counts) if len(counts) == len(self.units) else None


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceFile:
    """A file of a source: its path or URL, its name relative to the source's root, and its size in bytes."""

    address: str
    name: str
    size: int


class LabelMap:
    """Maps the labels of a source to class indices of a bundle; labels unknown to the bundle become None.

    Args:
        labels: the bundle's classes.
        classes: the source's class names by number; if empty, its numbers are the bundle's indices.
    """

    def __init__(self, labels: Labels, classes: tuple[str, ...] = ()) -> None:
        self._by_name = {name: index for index, name in enumerate(labels.names)}
        self._by_number = [self._by_name.get(name) for name in classes or labels.names]

    def __call__(self, label: object) -> int | None:
        """Map a class name, a number or a number in digits; a class named by digits takes precedence over a number."""
        if isinstance(label, str) and (label.strip() in self._by_name or not label.strip().isdecimal()):
            return self._by_name.get(label.strip())
        number = int(label) if isinstance(label, int | str) else -1
        return self._by_number[number] if 0 <= number < len(self._by_number) else None
