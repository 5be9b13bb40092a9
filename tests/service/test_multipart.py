"""Forms: what browsers and clients send is read however it is cut up; what is hostile ends early and costs little."""

from __future__ import annotations

import time

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from abnn_serve.service.errors import BadRequestError, TooManyPartsError, WrongPartError
from abnn_serve.service.multipart import FormParser

TYPE = "multipart/form-data; boundary=x"
FILE = b'Content-Disposition: form-data; name="image"; filename="a.png"\r\nContent-Type: image/png\r\n\r\n'
TEXT = b'Content-Disposition: form-data; name="top_k"\r\n\r\n'


def _form(*parts: bytes) -> bytes:
    return b"".join(b"--x\r\n" + part + b"\r\n" for part in parts) + b"--x--\r\n"


def _read(body: bytes, *, size: int = 65_536, max_files: int = 2, content_type: str = TYPE):
    parser = FormParser(content_type, "image", max_files)
    for start in range(0, len(body), size):
        parser.feed(body[start : start + size])
    fields = parser.finish()
    return [b"".join(pieces) for pieces in parser.files], fields


@given(
    files=st.lists(st.binary(max_size=40) | st.sampled_from([b"\r\n--", b"\r\n--x"[:4], b"\r", b"--x--"]), max_size=2),
    size=st.integers(1, 60),
    text=st.text(max_size=5),
)
def test_a_form_is_read_alike_however_it_is_cut_up(files, size, text):
    files = [file for file in [b"first", *files] if b"\r\n--x" not in b"\r\n" + file][:2]
    body = _form(*(FILE + file for file in files), TEXT + text.encode("utf-8", "replace"))
    assert _read(body, size=size) == (files, {"top_k": text.encode("utf-8", "replace").decode()})


@pytest.mark.parametrize(
    "disposition",
    [
        b'form-data; name="image"; filename="C:\\\\a \\"b\\";c.png"',
        b"form-data; name=image; filename*=UTF-8''a%20b",
        b'FORM-DATA;filename="";NAME="image"',
        b'form-data; name="image"; name="other"; filename=a',
    ],
)
def test_a_file_is_recognised_in_every_spelling_of_its_header(disposition):
    body = _form(b"content-disposition: " + disposition + b"\r\n\r\nbytes")
    for kind in (TYPE, 'Multipart/Form-Data; charset=utf-8; Boundary="x"'):
        assert _read(b"\r\n" + body + b"epilogue", content_type=kind) == ([b"bytes"], {})


def test_what_httpx_writes_is_read():
    request = httpx.Request("POST", "http://x", files={"image": ("ä.png", b"\r\n-\0\r")}, data={"top_k": "3", "b": ""})
    files, fields = _read(request.read(), content_type=request.headers["content-type"], size=7)
    assert (files, fields) == ([b"\r\n-\0\r"], {"top_k": "3", "b": ""})


def test_a_file_of_another_field_is_dropped():
    other = b'Content-Disposition: form-data; name="other"; filename="b"\r\n\r\n'
    assert _read(_form(other + b"1" * 99, FILE + b"2")) == ([b"2"], {})


@pytest.mark.parametrize(
    ("body", "error", "message"),
    [
        (b"", BadRequestError, "before its last boundary"),
        (b"\x89PNG--x\r\n", BadRequestError, "does not begin with its boundary"),
        (_form(FILE + b"1")[:-6], BadRequestError, "before its last boundary"),
        (_form(TEXT + b"1"), BadRequestError, "no field 'image'"),
        (_form(b"Content-Type: a\r\n\r\n1"), BadRequestError, "no Content-Disposition with a name"),
        (_form(b"Content-Disposition: form-data; filename=a\r\n\r\n1"), BadRequestError, "with a name"),
        (_form(b"\r\n1"), BadRequestError, "before its last boundary"),
        (_form(b"a\r\n\r\n1"), BadRequestError, "malformed headers"),
        (_form(b"a: b\r\n" * 9 + b"\r\n1"), BadRequestError, "over 8"),
        (_form(b"a: " + b"b" * 5000), BadRequestError, "exceed 4,096 bytes"),
        (b"--x" + b" " * 9000, BadRequestError, "followed by other text"),
        (b"--xy\r\n", BadRequestError, "followed by other text"),
        (b"--x-\r\n", BadRequestError, "followed by other text"),
        (_form(*[TEXT + b"1"] * 9), BadRequestError, "over 8 text fields"),
        (_form(TEXT + b"1" * 17_000), BadRequestError, "exceeds 16,384 bytes"),
        (_form(*[FILE + b"1"] * 3), TooManyPartsError, "2 files"),
        (_form(b'Content-Disposition: form-data; name="image"\r\n\r\nhttp://a'), WrongPartError, "is text"),
    ],
)
def test_what_is_wrong_with_a_form_is_named(body, error, message):
    for size in (65_536, 3):
        with pytest.raises(error, match=message):
            _read(body, size=size)


@pytest.mark.parametrize(
    "kind", ["multipart/form-data", "multipart/form-data; boundary=", "multipart/form-data; boundary"]
)
def test_a_content_type_without_a_boundary_is_refused(kind):
    with pytest.raises(BadRequestError, match="no boundary"):
        FormParser(kind, "image", 1)


def test_no_form_of_a_megabyte_takes_longer_than_reading_it():
    many = 200_000
    bodies = [
        FILE + b"\r\n--B" * many,
        FILE + b"\r\n-" * many,
        b"--" + b" " * many,
        FILE + b"\r" * many * 5,
        b"Content-Disposition: form-data" + b";" * many * 5,
        b'Content-Disposition: form-data; name="' + b'\\"' * many,
        b"Content-Disposition: form-data; a=b" * 100 + b"\r\n\r\n" + bytes(many * 5),
        b"\r\n" * many,
    ]
    for body in bodies:
        form = b"--x\r\n" + body
        started = time.thread_time()
        with pytest.raises(BadRequestError):
            _read(form, max_files=1_000_000)
        assert time.thread_time() - started < 0.1


def test_parameters_take_time_in_proportion_to_their_length():
    heads = [b";" * 4000, b'; a="' + b";" * 3900, b'; a="' * 750, b"; a" * 1200, b'; a="' + b'\\"' * 1900, b" " * 4000]
    started = time.thread_time()
    for head in heads * 20:
        with pytest.raises(BadRequestError):
            _read(b"--x\r\nContent-Disposition: form-data" + head + b"\r\n\r\n")
    assert time.thread_time() - started < 0.2
