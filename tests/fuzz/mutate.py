"""Mutations of bytes, from a seeded generator."""

from __future__ import annotations

import random
import struct
from collections.abc import Sequence

MAX_BYTES = 1 << 16
_NUMBERS = (0, 1, 2, 7, 8, 127, 128, 255, 256, 0x7FFF, 0x8000, 0xFFFF, 0x10000, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)
_FORMATS = ("<H", ">H", "<I", ">I")


def mutate(rng: random.Random, seeds: Sequence[bytes], tokens: Sequence[bytes] = ()) -> bytes:
    """One of the seeds with one to eight changes, at most `MAX_BYTES` bytes.

    Args:
        rng: decides everything.
        seeds: whole inputs; a change may also splice two of them.
        tokens: byte strings that mean something to the format.
    """
    data = bytearray(rng.choice(seeds))
    for _ in range(rng.randint(1, 8)):
        _change(rng, data, seeds, tokens)
    return bytes(data[:MAX_BYTES])


def _change(rng: random.Random, data: bytearray, seeds: Sequence[bytes], tokens: Sequence[bytes]) -> None:
    at = rng.randrange(len(data) + 1)
    size = min(len(data) - at, rng.choice((1, 2, 4, 16, 64, 512)))
    kind = rng.randrange(8)
    if kind == 0 and data:
        data[at - 1] = rng.randrange(256)
    elif kind == 1 and data:
        data[at - 1] ^= 1 << rng.randrange(8)
    elif kind == 2:
        shape = rng.choice(_FORMATS)
        number = rng.choice(_NUMBERS) & (0xFFFF if shape[1] == "H" else 0xFFFFFFFF)
        data[at : at + struct.calcsize(shape)] = struct.pack(shape, number)
    elif kind == 3:
        del data[at : at + size]
    elif kind == 4:
        data[at:at] = data[at : at + size] * rng.choice((1, 2, 8, 100))
    elif kind == 5 and tokens:
        data[at:at] = rng.choice(tokens) * rng.choice((1, 1, 1, 50))
    elif kind == 6:
        other = rng.choice(seeds)
        data[at:] = other[rng.randrange(len(other) + 1) :]
    elif kind == 7:
        del data[at:]
