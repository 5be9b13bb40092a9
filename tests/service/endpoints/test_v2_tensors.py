from __future__ import annotations

import json
import re
import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from abnn_serve.errors import InputError, InputShapeError
from abnn_serve.service.endpoints.v2_json import parse_data, parse_json
from abnn_serve.service.endpoints.v2_tensors import read_infer, write_infer
from abnn_serve.service.errors import BadRequestError, TooManyPartsError

SHAPE = (2, 2, 3)
PIXELS = np.arange(24, dtype=np.uint8).reshape(2, *SHAPE)


def body(**changes: object) -> bytes:
    tensor = {"name": "image", "datatype": "UINT8", "shape": [2, *SHAPE], "data": PIXELS.tolist()}
    return json.dumps({"id": "1", "inputs": [{**tensor, **changes}]}).encode()


def test_nested_and_flat_json_and_bytes_are_the_same_pixels():
    head = body(data=None, parameters={"binary_data_size": 24})
    for asked in (
        read_infer(body(), None, SHAPE, 4, "image"),
        read_infer(body(data=PIXELS.ravel().tolist()), None, SHAPE, 4, "image"),
        read_infer(head + PIXELS.tobytes(), str(len(head)), SHAPE, 4, "image"),
    ):
        np.testing.assert_array_equal(asked.samples, PIXELS)
        assert (asked.id, asked.binary) == ("1", False)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"datatype": "FP32"}, InputShapeError, "datatype is 'FP32', expected UINT8"),
        ({"shape": [2, 2, 2]}, InputShapeError, "expected UINT8"),
        ({"shape": [True, 2, 2, 3]}, InputShapeError, "shape is"),
        ({"shape": [0, 2, 2, 3]}, InputShapeError, "n >= 1"),
        ({"shape": [5, 2, 2, 3]}, TooManyPartsError, "5 samples, the limit is 4"),
        ({"shape": [1, 2, 2, 3]}, InputShapeError, "24 values"),
        ({"data": [256] * 24}, InputShapeError, "0 to 255"),
        ({"data": [0.5] * 24}, InputShapeError, "whole numbers"),
        ({"data": [True] * 24}, InputShapeError, "whole numbers"),
        ({"data": [[1], [2, 3]]}, InputShapeError, "3 values"),
        ({"data": [[1] * 11, [2] * 13]}, InputShapeError, "nested like the shape"),
        ({"data": [[*range(23)], []]}, InputShapeError, "nested like the shape"),
        ({"data": [[{"data": [1]}]] * 24}, InputShapeError, "nested like the shape"),
        ({"data": ["x" * 50_000] + [""] * 23}, InputShapeError, "whole numbers"),
        ({"parameters": {"data": [1]}}, BadRequestError, "several lists named 'data'"),
        ({"name": "x" * 70_000}, BadRequestError, "over 65,536 bytes besides 'data'"),
        ({"data": "AAAA"}, InputShapeError, "a list"),
        ({"parameters": {"binary_data_size": 24}}, BadRequestError, "no bytes follow"),
        ({"name": "pixels"}, BadRequestError, "named 'image'"),
    ],
)
def test_what_does_not_fit_is_named(changes, error, message):
    with pytest.raises(error, match=message):
        read_infer(body(**changes), None, SHAPE, 4, "image")


@pytest.mark.parametrize("text", [b"", b"[", b"[]", b'{"inputs": 1}', b"[" * 100_000, b"\xff\xfe", b'{"inputs": [1]}'])
def test_what_is_not_the_protocol_is_refused(text):
    with pytest.raises(BadRequestError):
        read_infer(text, None, SHAPE, 4, "image")


WRONG = "[1,2,3,] [,1,2,3] [1,,2,3] [01,2,3,4] [1,2,3,4]] [[1,2,3,4] [1\t1,2,3,4] [-1,2,3,4] [1,2,3,4 [1[,2],3,4]"


@pytest.mark.parametrize(
    "data",
    [*WRONG.split(" "), "[[1],[2]3,4]", "[1,2,3,1e0]", "[1,2,3,256]", "[1,2,3,\x0b4]", f"[1,2,3,{'9' * 5000}]", "[]"],
)
@pytest.mark.parametrize("after", ["", ',"shape":[4]'])
def test_what_json_refuses_or_the_shape_does_not_have_is_refused(data, after):
    def read() -> None:
        _, text = parse_json(f'{{"data": {data}{after}}}'.encode())
        parse_data(text, (4,))

    with pytest.raises(InputError):
        read()


@given(
    shape=st.lists(st.integers(1, 6), min_size=1, max_size=4),
    blanks=st.lists(st.sampled_from(["", " ", "\n\t "]), min_size=1, max_size=7),
    flat=st.booleans(),
    seed=st.integers(0, 99),
    first=st.booleans(),
)
def test_what_json_reads_is_read_alike_whatever_the_blanks_and_the_order(shape, blanks, flat, seed, first):
    pixels = np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)
    tokens = re.findall(r"\d+|\D", json.dumps((pixels.ravel() if flat else pixels).tolist(), separators=(",", ":")))
    data = "".join(token + blanks[i % len(blanks)] for i, token in enumerate(tokens))
    keys = [f'"data" : {data}', '"x": "\\\\\\"data\\":[1"'][:: 1 if first else -1]
    frame, text = parse_json(f"{{{keys[0]} , {keys[1]}}}".encode())
    assert frame == {"data": [], "x": '\\"data":[1'}
    np.testing.assert_array_equal(parse_data(text, tuple(shape)), pixels)


def test_no_request_makes_more_objects_than_it_has_bytes():
    many = 500_000
    start = body(data=[]).removesuffix(b"[]}]}")
    bodies = [
        start + b'["' + b"x" * 18_000 + b'"' + b',""' * 18_000 + b"]}]}",
        start + b"[" + b"[]," * many + b"[]]}]}",
        start + b"[" + b"{}," * many + b"{}]}]}",
        start + b"[" + b"1000," * many + b"0]}]}",
        b'{"outputs": [' + b"[]," * many + b"[]]}",
        b'{"inputs": [' + b'"",' * many,
        b'{"inputs": "' + b"\\n" * many,
        b'{"data": ' + b"[" * many,
        b'{"data": [1' + b" " * many,
    ]
    for text in bodies:
        tracemalloc.start()
        with pytest.raises(InputError):
            read_infer(text, None, SHAPE, 4, "image")
        assert tracemalloc.get_traced_memory()[1] < 2 * len(text)
        tracemalloc.stop()


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(["inputs", "name", "shape", "data", "parameters", "outputs"]), inner, max_size=4
        )
    ),
    max_leaves=12,
)


@given(
    changes=st.dictionaries(st.sampled_from(["name", "datatype", "shape", "data", "parameters"]), JSON), size=st.text()
)
def test_any_json_is_read_or_refused_on_purpose(changes, size):
    for length in (None, size, "10"):
        try:
            read_infer(body(**changes), length, SHAPE, 4, "image")
        except InputError as error:
            assert error.status in (400, 413, 422)


def test_logits_come_as_json_or_as_bytes_behind_it():
    logits = np.array([[1.5, -2]], np.float32)
    text, headers = write_infer({"id": "7"}, {"logits": logits}, binary=False)
    assert json.loads(text)["outputs"] == [{"name": "logits", "datatype": "FP32", "shape": [1, 2], "data": [1.5, -2.0]}]
    mixed, headers = write_infer({}, {"logits": logits}, binary=True)
    length = int(headers["Inference-Header-Content-Length"])
    assert json.loads(mixed[:length])["outputs"][0]["parameters"] == {"binary_data_size": 8}
    np.testing.assert_array_equal(np.frombuffer(mixed[length:], np.float32), logits[0])
