from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from abnn_serve.errors import InputError, InputShapeError
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
        ({"data": [[1], [2, 3]]}, InputShapeError, "nested evenly"),
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
    text, headers = write_infer({"id": "7"}, logits, binary=False)
    assert json.loads(text)["outputs"] == [{"name": "logits", "datatype": "FP32", "shape": [1, 2], "data": [1.5, -2.0]}]
    mixed, headers = write_infer({}, logits, binary=True)
    length = int(headers["Inference-Header-Content-Length"])
    assert json.loads(mixed[:length])["outputs"][0]["parameters"] == {"binary_data_size": 8}
    np.testing.assert_array_equal(np.frombuffer(mixed[length:], np.float32), logits[0])
