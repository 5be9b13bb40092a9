"""Tensors of the Open Inference Protocol v2, as JSON or as bytes behind the JSON (Triton's binary tensor extension)."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from abnn_serve.errors import InputShapeError
from abnn_serve.service.errors import BadRequestError, TooManyPartsError

HEADER = "Inference-Header-Content-Length"
OUTPUT = "logits"
_MAX_ID = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class InferRequest:
    """What is asked: samples, uint8 (n, *shape), and whether the logits shall come as bytes."""

    id: str | None
    samples: NDArray[np.uint8]
    binary: bool


def read_infer(
    body: bytes, header_length: str | None, shape: tuple[int, ...], max_samples: int, name: str
) -> InferRequest:
    """Parse a request strictly where it matters: one input of the model's name, type and shape.

    Args:
        body: JSON, followed by the tensor's bytes where there is a `header_length`.
        header_length: bytes of JSON, as the header says; None where all is JSON.
        shape: of one sample.
        max_samples: that one request may have.
        name: of the input: `image` or `video`.

    Raises:
        BadRequestError: not the protocol's JSON, or sizes that contradict each other.
        InputShapeError: another datatype or shape.
        TooManyPartsError: more than `max_samples`.
    """
    head, tail = _split(body, header_length)
    try:
        request = json.loads(head)
    except (ValueError, RecursionError) as error:
        raise BadRequestError(f"the request is not JSON: {str(error)[:80]}", field="body") from None
    if not isinstance(request, dict):
        raise BadRequestError("the request is not a JSON object", field="body")
    sent = request.get("inputs")
    if not isinstance(sent, list) or len(sent) != 1 or not isinstance(sent[0], dict) or sent[0].get("name") != name:
        raise BadRequestError(f"inputs must be a list of one tensor named {name!r}", field="inputs")
    known = request.get("id")
    if known is not None and (not isinstance(known, str) or len(known) > _MAX_ID):
        raise BadRequestError(f"id must be text of at most {_MAX_ID} characters", field="id")
    return InferRequest(id=known, samples=_tensor(sent[0], tail, shape, max_samples), binary=_wants_binary(request))


def write_infer(
    facts: dict[str, Any], logits: NDArray[np.float32], *, binary: bool, name: str = OUTPUT
) -> tuple[bytes, dict[str, str]]:
    """The answer's body and headers; `facts` are what stands beside the outputs."""
    tensor: dict[str, Any] = {"name": name, "datatype": "FP32", "shape": list(logits.shape)}
    if not binary:
        tensor["data"] = [float(value) for value in logits.ravel()]
        return json.dumps({**facts, "outputs": [tensor]}).encode(), {"Content-Type": "application/json"}
    data = logits.astype("<f4").tobytes()
    tensor["parameters"] = {"binary_data_size": len(data)}
    head = json.dumps({**facts, "outputs": [tensor]}).encode()
    return head + data, {"Content-Type": "application/octet-stream", HEADER: str(len(head))}


def _split(body: bytes, header_length: str | None) -> tuple[bytes, bytes | None]:
    if header_length is None:
        return body, None
    if not re.fullmatch(r"[0-9]{1,12}", header_length) or int(header_length) > len(body):
        raise BadRequestError(f"{HEADER} is {header_length[:20]!r}, the body has {len(body)} bytes", field=HEADER)
    return body[: int(header_length)], body[int(header_length) :]


def _tensor(sent: dict[str, Any], tail: bytes | None, shape: tuple[int, ...], max_samples: int) -> NDArray[np.uint8]:
    wanted = f"expected UINT8 [n, {', '.join(map(str, shape))}]"
    if sent.get("datatype") != "UINT8":
        raise InputShapeError(f"datatype is {str(sent.get('datatype'))[:20]!r}, {wanted}")
    sizes = sent.get("shape")
    if not isinstance(sizes, list) or [type(v) for v in sizes] != [int] * (1 + len(shape)):
        raise InputShapeError(f"shape is {str(sizes)[:40]}, {wanted}")
    if tuple(sizes[1:]) != shape or sizes[0] < 1:
        raise InputShapeError(f"shape is {str(sizes)[:40]}, {wanted} with n >= 1")
    if sizes[0] > max_samples:
        raise TooManyPartsError(f"the tensor has {sizes[0]} samples, the limit is {max_samples}", field="inputs")
    parameters = sent.get("parameters")
    size = parameters.get("binary_data_size") if isinstance(parameters, dict) else None
    values = _from_json(sent.get("data")) if size is None else _from_bytes(tail, size)
    if values.size != np.prod(sizes):
        raise InputShapeError(f"the data has {values.size:,} values, shape {sizes} needs {int(np.prod(sizes)):,}")
    return values.reshape(sizes)


def _from_bytes(tail: bytes | None, size: Any) -> NDArray[np.uint8]:
    if tail is None or type(size) is not int or size != len(tail):
        found = "no" if tail is None else f"{len(tail):,}"
        raise BadRequestError(
            f"binary_data_size is {str(size)[:20]}, {found} bytes follow the JSON", field="binary_data_size"
        )
    return np.frombuffer(tail, np.uint8)


def _from_json(data: Any) -> NDArray[np.uint8]:
    try:
        values = np.asarray(data)
    except (ValueError, OverflowError, RecursionError):
        values = np.asarray(None)
    if (
        not isinstance(data, list)
        or values.dtype.kind not in "iu"
        or (values.size and not 0 <= values.min() <= values.max() <= 255)
    ):
        raise InputShapeError("data must be a list of whole numbers from 0 to 255, flat or nested evenly")
    return values.astype(np.uint8).ravel()


def _wants_binary(request: dict[str, Any]) -> bool:
    parameters, outputs = request.get("parameters") or {}, request.get("outputs")
    if not isinstance(parameters, dict):
        raise BadRequestError("parameters must be a JSON object", field="parameters")
    binary = parameters.get("binary_data_output", False) is True
    if outputs is None or outputs == []:
        return binary
    if not isinstance(outputs, list) or len(outputs) != 1 or not isinstance(outputs[0], dict):
        raise BadRequestError(f"outputs must be a list of one tensor named {OUTPUT!r}", field="outputs")
    own = outputs[0].get("parameters") or {}
    if outputs[0].get("name") != OUTPUT or not isinstance(own, dict) or own.get("classification"):
        raise BadRequestError(f"outputs must name {OUTPUT!r} alone, without classification", field="outputs")
    return own.get("binary_data", binary) is True
