from __future__ import annotations

import asyncio
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.responses import JSONResponse

from abnn_serve.service.endpoints.long_json import LongResponse, write_object, write_values
from abnn_serve.service.endpoints.v2_tensors import write_infer

VALUES = st.recursive(
    st.none() | st.booleans() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(value=st.dictionaries(st.text(), VALUES))
def test_an_object_is_written_as_starlette_writes_it(value):
    assert write_object(value) == JSONResponse(value).body


def test_rows_that_are_made_one_by_one_are_written_as_a_list():
    rows = ({"index": index} for index in range(3))
    assert json.loads(write_object({"rows": rows})) == {"rows": [{"index": 0}, {"index": 1}, {"index": 2}]}


@pytest.mark.parametrize("shape", [(1, 1), (1, 1000), (3, 1001)])
def test_numbers_keep_every_digit(shape):
    logits = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    assert json.loads(write_values(logits)) == [float(value) for value in logits.ravel()]


def test_tensors_are_written_one_after_another_whatever_the_id_looks_like():
    text, _ = write_infer(
        {"id": "[]}"}, {"logits": np.zeros((1, 2), np.float32), "certified": np.array([True])}, binary=False
    )
    assert json.loads(text) == {
        "id": "[]}",
        "outputs": [
            {"name": "logits", "datatype": "FP32", "shape": [1, 2], "data": [0.0, 0.0]},
            {"name": "certified", "datatype": "BOOL", "shape": [1], "data": [True]},
        ],
    }


@pytest.mark.parametrize("count", [100, 262_144, 1_000_000])
def test_a_long_response_is_sent_whole_and_in_pieces(count):
    body = np.random.default_rng(0).integers(0, 256, count, np.uint8).tobytes()
    messages = []

    async def send(message):
        messages.append(message)

    asyncio.run(LongResponse(body)({"type": "http"}, None, send))
    assert dict(messages[0]["headers"])[b"content-length"] == str(count).encode()
    assert b"".join(message["body"] for message in messages[1:]) == body
    assert all(len(message["body"]) <= 262_144 for message in messages[1:])
    assert [message["more_body"] for message in messages[1:]] == [True] * (len(messages) - 2) + [False]
