"""docs/http.md against the code: error codes, formats, metrics, paths, and the examples against a real server."""

from __future__ import annotations

import json
import re
from http import HTTPStatus

import pytest

import abnn_serve.service.errors as service_errors
from abnn_serve import errors
from abnn_serve.errors import InputError
from abnn_serve.media import container, image
from abnn_serve.service.app import create_app
from abnn_serve.service.metrics import Metrics
from abnn_serve.service.middleware import _PUBLIC_PATHS
from abnn_serve.service.worker import WorkerState
from tests.docs.pages import code_blocks, read_page

PAGE = read_page("docs/http.md")
CODES = dict(re.findall(r"^\| `(\w+)` \| (\d{3}) \|", PAGE, re.MULTILINE))


def _classes() -> list[type[InputError]]:
    values = [*vars(errors).values(), *vars(service_errors).values()]
    return [value for value in values if isinstance(value, type) and issubclass(value, InputError)]


@pytest.mark.parametrize("error", sorted(set(_classes()), key=lambda error: error.__name__))
def test_every_error_has_a_row_with_its_status(error):
    assert CODES[error.code] == str(error.status)


def test_every_row_is_an_error_of_the_code():
    raised = {error.code for error in _classes()}
    by_phrase = {code for code in CODES if code.replace("_", " ") in {s.phrase.lower() for s in HTTPStatus}}
    connections = read_page("abnn_serve/service/protocol.py")
    rejected = {(code, status) for status, code in re.findall(r'_reject\((\d+), "(\w+)"', connections)}
    assert rejected <= set(CODES.items())
    assert set(CODES) == raised | {code for code, _ in rejected} | {"not_found", "method_not_allowed", "internal_error"}
    assert {"not_found", "method_not_allowed"} <= by_phrase


def test_every_path_is_on_the_page():
    paths = {route._route.path for route in create_app(WorkerState()).routes}
    for path in paths - {"/page"}:
        assert path.replace("/versions/{version}", "") in PAGE, path


def test_public_paths_are_those_of_the_middleware():
    (sentence,) = re.findall(r"every path needs a key except (.*?)\. The", PAGE, re.DOTALL)
    assert set(re.findall(r"`(\S+?)`", sentence)) == {*_PUBLIC_PATHS, "/page/..."}


def test_every_metric_is_on_the_page_with_its_labels_and_meaning():
    rows = re.findall(r"^\| `(abnn_\w+)` \| (\w+) \|([^|]*)\| (.*) \|$", PAGE, re.MULTILINE)
    shown = {name: (kind, re.findall(r"`(\w+)`", labels), text) for name, kind, labels, text in rows}
    metrics = [m for m in vars(Metrics(workers=1)).values() if hasattr(m, "describe")]
    described = {}
    for metric in metrics:
        (family,) = metric.describe()
        name = f"{family.name}_total" if family.type == "counter" else family.name
        described[name] = (family.type, list(metric._labelnames))
        assert shown[name][2].lower().startswith(family.documentation.lower().split(",")[0])
    assert {name: row[:2] for name, row in shown.items()} == described


def test_formats_are_those_of_the_decoders():
    lines = " ".join(PAGE.split()).lower()
    assert set(re.findall(r"\w+", re.findall(r"supported formats are (.*?)\.", lines)[0])) - {"and"} == {
        name.lower() for name in image.FORMATS
    }
    assert set(re.findall(r"\w+", re.findall(r"supported containers are (.*?);", lines)[0])) - {"and"} == {
        name.lower() for name in container.FORMATS
    }


def test_examples_are_json():
    for block in code_blocks(PAGE, "json"):
        json.loads(block)
