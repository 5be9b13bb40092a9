"""Tensors of the Open Inference Protocol v2, as JSON or in Triton's binary tensor extension."""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from abnn_serve.errors import InputShapeError
from abnn_serve.service.endpoints.long_json import write_values
from abnn_serve.service.endpoints.v2_json import WRONG_DATA, parse_data, parse_json
from abnn_serve.service.errors import BadRequestError, TooManyPartsError

HEADER = "Inference-Header-Content-Length"
OUTPUT = "logits"
_MAX_ID = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class InferRequest:
    """A parsed request.

    Attributes:
        id: the client's id for the request, returned with the response.
        samples: uint8 (n, *shape).
        binary: return the logits as binary data.
    """

    id: str | None
    samples: NDArray[np.uint8]
    binary: bool


def read_infer(
    body: bytes, header_length: str | None, shape: tuple[int, ...], max_samples: int, name: str
) -> InferRequest:
    """Parse a request with one input tensor; unknown keys are ignored.

    Args:
        body: JSON, followed by binary data if `header_length` is not None.
        header_length: value of the Inference-Header-Content-Length header: the bytes of JSON.
        shape: shape of one sample.
        max_samples: samples per request.
        name: expected name of the input, `image` or `video`.

    Raises:
        BadRequestError: not the protocol's JSON, or inconsistent sizes.
        InputShapeError: wrong datatype, shape or values.
        TooManyPartsError: more than `max_samples` samples.
    """
    head, binary_data = _split(body, header_length)
    request, data = parse_json(head)
    if not isinstance(request, dict):
        raise BadRequestError("the request is not a JSON object", field="body")
    inputs = request.get("inputs")
    tensor = inputs[0] if isinstance(inputs, list) and len(inputs) == 1 else None
    if not isinstance(tensor, dict) or tensor.get("name") != name:
        raise BadRequestError(f"inputs must be a list of one tensor named {name!r}", field="inputs")
    request_id = request.get("id")
    if request_id is not None and (not isinstance(request_id, str) or len(request_id) > _MAX_ID):
        raise BadRequestError(f"id must be a string of at most {_MAX_ID} characters", field="id")
    samples = _parse_tensor(tensor, data, binary_data, shape, max_samples)
    return InferRequest(id=request_id, samples=samples, binary=_wants_binary(request))


def write_infer(
    response: dict[str, Any], outputs: dict[str, NDArray[Any]], *, binary: bool
) -> tuple[bytes, dict[str, str]]:
    """Body and headers of a response.

    Args:
        response: its keys besides `outputs`.
        outputs: float32 or bool tensors by name.
        binary: send their values after the JSON.
    """
    tensors, parts = [], []
    for name, values in outputs.items():
        datatype, dtype = ("BOOL", "?") if values.dtype == bool else ("FP32", "<f4")
        tensor: dict[str, Any] = {"name": name, "datatype": datatype, "shape": list(values.shape)}
        if binary:
            parts.append(values.astype(dtype).tobytes())
            tensor["parameters"] = {"binary_data_size": len(parts[-1])}
            tensors.append(json.dumps(tensor))
        else:
            tensors.append(f'{json.dumps(tensor)[:-1]}, "data": {write_values(values)}}}')
    frame = json.dumps({**response, "outputs": []})
    head = f"{frame[:-2]}{', '.join(tensors)}]}}".encode()
    if not binary:
        return head, {"Content-Type": "application/json"}
    return head + b"".join(parts), {"Content-Type": "application/octet-stream", HEADER: str(len(head))}


def _split(body: bytes, header_length: str | None) -> tuple[bytes, bytes | None]:
    if header_length is None:
        return body, None
    if not re.fullmatch(r"[0-9]{1,12}", header_length) or int(header_length) > len(body):
        raise BadRequestError(f"{HEADER} is {header_length[:20]!r}, but the body has {len(body)} bytes", field=HEADER)
    return body[: int(header_length)], body[int(header_length) :]


def _parse_tensor(
    tensor: dict[str, Any], data: bytes | None, binary_data: bytes | None, shape: tuple[int, ...], max_samples: int
) -> NDArray[np.uint8]:
    expected = f"expected UINT8 [n, {', '.join(map(str, shape))}]"
    if tensor.get("datatype") != "UINT8":
        raise InputShapeError(f"datatype is {str(tensor.get('datatype'))[:20]!r}, {expected}")
    sizes = tensor.get("shape")
    if not isinstance(sizes, list) or [type(v) for v in sizes] != [int] * (1 + len(shape)):
        raise InputShapeError(f"shape is {str(sizes)[:40]}, {expected}")
    if tuple(sizes[1:]) != shape or sizes[0] < 1:
        raise InputShapeError(f"shape is {str(sizes)[:40]}, {expected} with n >= 1")
    if sizes[0] > max_samples:
        raise TooManyPartsError(
            f"the tensor has {sizes[0]} samples, the limit is {max_samples}; split the request", field="inputs"
        )
    parameters = tensor.get("parameters")
    size = parameters.get("binary_data_size") if isinstance(parameters, dict) else None
    if size is None:
        if data is None or tensor.get("data") != []:
            raise InputShapeError(WRONG_DATA)
        return parse_data(data, tuple(sizes))
    values = _from_binary(binary_data, size)
    if values.size != math.prod(sizes):
        raise InputShapeError(f"data has {values.size:,} values, but shape {sizes} needs {math.prod(sizes):,}")
    return values.reshape(sizes)


def _from_binary(binary_data: bytes | None, size: Any) -> NDArray[np.uint8]:
    if binary_data is None or type(size) is not int or size != len(binary_data):
        length = "no" if binary_data is None else f"{len(binary_data):,}"
        raise BadRequestError(
            f"binary_data_size is {str(size)[:20]}, but {length} bytes follow the JSON", field="binary_data_size"
        )
    return np.frombuffer(binary_data, np.uint8)


def _wants_binary(request: dict[str, Any]) -> bool:
    parameters, outputs = request.get("parameters") or {}, request.get("outputs")
    if not isinstance(parameters, dict):
        raise BadRequestError("parameters must be a JSON object", field="parameters")
    binary = parameters.get("binary_data_output", False) is True
    if outputs is None or outputs == []:
        return binary
    if not isinstance(outputs, list) or len(outputs) != 1 or not isinstance(outputs[0], dict):
        raise BadRequestError(f"outputs must be a list of one tensor named {OUTPUT!r}", field="outputs")
    options = outputs[0].get("parameters") or {}
    if outputs[0].get("name") != OUTPUT or not isinstance(options, dict) or options.get("classification"):
        raise BadRequestError(f"outputs must be {OUTPUT!r} only, without classification", field="outputs")
    return options.get("binary_data", binary) is True
