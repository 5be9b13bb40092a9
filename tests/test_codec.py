from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from abnn_serve.codec import canonical, from_json, to_json
from abnn_serve.errors import ConfigError
from abnn_serve.spec import InputSpec, Sampling


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    count: int
    specs: tuple[InputSpec, ...] = ()
    pair: tuple[int, float] | None = None
    table: dict[str, float] | None = None
    kind: Literal["a", "b"] = "a"
    on: bool = False


def _read(value: object) -> Sample:
    return from_json(Sample, value, "file", ConfigError)


@given(
    count=st.integers(),
    sizes=st.lists(st.integers(1, 4096), max_size=3),
    pair=st.none() | st.tuples(st.integers(), st.floats(allow_nan=False, allow_infinity=False)),
    table=st.none() | st.dictionaries(st.text(), st.floats(allow_nan=False, allow_infinity=False)),
    on=st.booleans(),
)
def test_what_is_written_is_read_back(count, sizes, pair, table, on):
    specs = tuple(InputSpec(height=size, width=size) for size in sizes)
    value = Sample(count=count, specs=specs, pair=pair, table=table, on=on)
    assert _read(to_json(value)) == value


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"count": 1, "colour": 2}, "file: unknown key 'colour'"),
        ({}, "file: key 'count' is missing"),
        ({"count": "1"}, "file.count is '1', expected a JSON whole number"),
        ({"count": True}, "file.count is True, expected a JSON whole number"),
        ({"count": 1, "specs": "ab"}, "file.specs is 'ab', expected a JSON array"),
        ({"count": 1, "specs": [{"height": 0, "width": 2}]}, r"file.specs\[0\]: InputSpec.height is 0"),
        ({"count": 1, "pair": [1]}, r"file.pair is \[1\], expected 2 items"),
        ({"count": 1, "table": {"x": "y"}}, "file.table.x is 'y', expected a JSON number"),
        ({"count": 1, "kind": "c"}, "file.kind is 'c', expected one of a, b"),
        ({"count": 1, "on": 0}, "file.on is 0, expected a JSON boolean"),
        ([], r"file is \[\], expected a JSON object"),
        (None, "file is None, expected a JSON object"),
    ],
)
def test_what_does_not_fit_is_named(value, message):
    with pytest.raises(ConfigError, match=message):
        _read(value)


def test_canonical_bytes_do_not_depend_on_the_order_of_keys():
    assert canonical({"b": 1, "a": "é"}) == canonical({"a": "é", "b": 1}) == '{\n  "a": "é",\n  "b": 1\n}\n'.encode()


def test_numbers_that_json_lacks_are_refused():
    with pytest.raises(ValueError, match="not JSON compliant"):
        canonical({"a": float("nan")})


def test_a_newer_field_is_left_out_where_it_is_none():
    assert to_json(InputSpec(height=8, width=9)) == {
        "height": 8,
        "width": 9,
        "fit": "crop",
        "interpolation": "bilinear",
    }
    clips = InputSpec(height=8, width=9, sampling=Sampling(frames=4, fps=12.5))
    assert to_json(clips)["sampling"]["fps"] == 12.5
    assert from_json(InputSpec, to_json(clips), "file", ConfigError) == clips
