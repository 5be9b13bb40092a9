"""What is scored: rows, and the units in which they are read, written and counted as done."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass

from abnn_serve.spec import Labels


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One sample.

    Attributes:
        id: unique within its source, and the same wherever the source lies.
        source: where it can be found again.
        content: encoded bytes, or the address of a file to read them from.
        truth: index of its class among the bundle's labels; None where the source does not say.
        problem: why there is no content; empty where there is.
    """

    id: str
    source: str
    content: bytes | str = b""
    truth: int | None = None
    problem: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Unit:
    """Rows that are scored and written together: one shard. `rows` is None where only reading will tell."""

    index: int
    rows: int | None


class Source(ABC):
    """Reads units, and knows nothing of those it is not given: it travels to other machines at no cost."""

    @abstractmethod
    def read(self, unit: Unit) -> Iterator[Row]:
        """The rows of one unit, always the same in the same order. What cannot be read is a row with a problem."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Everything to score.

    Attributes:
        source: reads the units.
        units: at most `shard_rows` rows each, where the source can be cut.
        column: of the encoded samples in Parquet.
        digest: sha256 over the names and sizes of the files, and over a list's bytes, which tells a changed source.
    """

    source: Source
    units: tuple[Unit, ...]
    shard_rows: int
    column: str
    digest: str

    @property
    def rows(self) -> int | None:
        """How many rows there are; None where only reading will tell."""
        counts = [unit.rows for unit in self.units if unit.rows is not None]
        return sum(counts) if len(counts) == len(self.units) else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """A file of a source: its address, its name below the source's root, its size in bytes."""

    address: str
    name: str
    size: int


class Truth:
    """What a source calls classes, as indices among a bundle's labels; what the bundle does not know becomes None.

    Args:
        labels: of the bundle.
        classes: the source's own names by number, where it has them; else its numbers are the bundle's.
    """

    def __init__(self, labels: Labels, classes: tuple[str, ...] = ()) -> None:
        self._by_name = {name: index for index, name in enumerate(labels.names)}
        self._by_number = [self._by_name.get(name) for name in classes or labels.names]

    def __call__(self, label: object) -> int | None:
        """A name, or a number as such or in digits, to the bundle's index."""
        if isinstance(label, str) and (label.strip() in self._by_name or not label.strip().isdecimal()):
            return self._by_name.get(label.strip())
        number = int(label) if isinstance(label, int | str) else -1
        return self._by_number[number] if 0 <= number < len(self._by_number) else None
