"""A model behind the Open Inference Protocol v2, asked in JSON or, where the server has it, in binary tensors."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from abnn_serve.card import EndpointProtocol
from abnn_serve.errors import ConfigError
from abnn_serve.evaluation.endpoints.connection import Connection
from abnn_serve.evaluation.foreign.layout import image_layout
from abnn_serve.evaluation.foreign.preprocess import Preprocess

_HEADER = "Inference-Header-Content-Length"
_INPUTS = {"UINT8": "uint8", "FP32": "float32", "FP64": "float64"}
_OUTPUTS = {"FP32": "<f4", "FP64": "<f8", "FP16": "<f2", "INT64": "<i8", "INT32": "<i4"}


class V2Endpoint:
    """See `endpoints.endpoint.Endpoint`.

    Args:
        address: such as http://host:8000/v2/models/NAME, perhaps with /versions/VERSION.
        connection: to its host.
        preprocess: applied to float inputs.
        per_request: images in a request, where the model takes any number.
        output: name of the class scores, where there are several outputs.
        size: height and width, where the model leaves them open.
    """

    protocol: EndpointProtocol = "v2"
    names: tuple[str, ...] = ()

    def __init__(
        self,
        address: str,
        connection: Connection,
        preprocess: Preprocess,
        *,
        per_request: int = 8,
        output: str | None = None,
        size: tuple[int, int] | None = None,
    ) -> None:
        self.address = address.rstrip("/").removesuffix("/infer")
        root, found, _ = self.address.partition("/v2/models/")
        if not found:
            raise ConfigError(
                f"{address} is not a model of the Open Inference Protocol, expected http://HOST/v2/models/NAME; for "
                "this package's own path give --adapter classify"
            )
        self._connection, self._preprocess = connection, preprocess
        metadata = connection.get(self.address)
        self._input = _find_input(self.address, metadata, is_preprocessed=preprocess != Preprocess())
        self._dtype = _INPUTS[self._input["datatype"]]
        self._output = _find_output(self.address, metadata, output)
        shape = tuple(self._input["shape"])
        self._layout, (self.height, self.width) = image_layout(self.address, str(self._input["name"]), shape, size)
        self._pads = shape[0] > 0
        self.per_request = shape[0] if self._pads else per_request
        self.binary = "binary_tensor_data" in _extensions(connection, root)
        self.identity = json.dumps([self.address, metadata, str(preprocess)], sort_keys=True)

    def close(self) -> None:
        """See `Endpoint`."""
        self._connection.close()

    def ask(self, pixels: NDArray[np.uint8]) -> NDArray[Any]:
        """See `Endpoint`."""
        count = len(pixels)
        if self._pads:
            pixels = np.concatenate([pixels, np.repeat(pixels[-1:], self.per_request - count, axis=0)])
        values = self._values(pixels)
        tensor: dict[str, Any] = {
            "name": self._input["name"],
            "datatype": self._input["datatype"],
            "shape": list(values.shape),
        }
        wanted: dict[str, Any] = {"name": self._output}
        if self.binary:
            data = np.ascontiguousarray(values).tobytes()
            tensor["parameters"] = {"binary_data_size": len(data)}
            wanted["parameters"] = {"binary_data": True}
            head = json.dumps({"inputs": [tensor], "outputs": [wanted]}).encode()
            headers = {"Content-Type": "application/octet-stream", _HEADER: str(len(head))}
            body = head + data
        else:
            tensor["data"] = values.ravel().tolist()
            body = json.dumps({"inputs": [tensor], "outputs": [wanted]}).encode()
            headers = {"Content-Type": "application/json"}
        response = self._connection.post(f"{self.address}/infer", body, headers)
        return self._read(response.content, response.headers.get(_HEADER))[:count]

    def _values(self, pixels: NDArray[np.uint8]) -> NDArray[Any]:
        values: NDArray[Any] = pixels
        if self._dtype != "uint8":
            values = self._preprocess.apply(pixels).astype(self._dtype)
        if self._layout == "flat":
            return values.reshape(len(values), -1)
        return values.transpose(0, 3, 1, 2) if self._layout == "NCHW" else values

    def _read(self, body: bytes, header: str | None) -> NDArray[Any]:
        """The output of a response: scores (n, classes) or labels (n,)."""
        try:
            size = len(body) if header is None else int(header)
            outputs, at = json.loads(body[:size])["outputs"], size
            for tensor in outputs:
                length = (tensor.get("parameters") or {}).get("binary_data_size")
                if tensor["name"] == self._output:
                    return _tensor(tensor, body[at : at + length] if length is not None else None)
                at += length or 0
        except (ValueError, KeyError, TypeError, AttributeError):
            raise ConfigError(
                f"{self.address} does not answer as the Open Inference Protocol says: {body[:80]!r}"
            ) from None
        raise ConfigError(f"{self.address} answers without the output {self._output!r}")


def _extensions(connection: Connection, root: str) -> list[str]:
    """Extensions of the protocol that the server names; none if it does not describe itself."""
    try:
        return _mapping(connection.get(f"{root}/v2")).get("extensions") or []
    except ConfigError:  # some servers describe their models alone
        return []


def _find_input(address: str, metadata: Any, *, is_preprocessed: bool) -> dict[str, Any]:
    inputs = _mapping(metadata).get("inputs") or []
    if len(inputs) != 1 or not {"name", "datatype", "shape"} <= set(inputs[0]):
        raise ConfigError(
            f"{address} describes {len(inputs)} inputs, expected one image with name, datatype and shape; "
            "describe it in the server's model metadata"
        )
    found: dict[str, Any] = inputs[0]
    if found["datatype"] not in _INPUTS:
        raise ConfigError(
            f"{address} has the input {found['name']} of {found['datatype']}, expected one of {', '.join(_INPUTS)}"
        )
    if found["datatype"] == "UINT8" and is_preprocessed:
        raise ConfigError(f"{address} takes uint8 pixels, which need no preprocessing; omit --preprocess")
    return found


def _find_output(address: str, metadata: Any, output: str | None) -> str:
    outputs = [port for port in metadata.get("outputs") or [] if port.get("datatype") in _OUTPUTS]
    names = ", ".join(str(port.get("name")) for port in outputs)
    if output is None and len(outputs) != 1:
        raise ConfigError(f"{address} has several outputs ({names}); choose one with --output NAME")
    if output is not None and output not in [port.get("name") for port in outputs]:
        raise ConfigError(f"{address} has no output named {output!r}, expected one of {names}")
    return output or str(outputs[0]["name"])


def _mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _tensor(tensor: dict[str, Any], data: bytes | None) -> NDArray[Any]:
    shape = tuple(int(side) for side in tensor["shape"])
    dtype = _OUTPUTS[tensor["datatype"]]
    values = np.array(tensor["data"], dtype) if data is None else np.frombuffer(data, dtype)
    if values.size != math.prod(shape):
        raise ValueError
    return values.reshape(shape if len(shape) < 2 or shape[1] > 1 or dtype[1] == "f" else shape[:1])
