"""Open an endpoint's address, or a callable by name."""

from __future__ import annotations

from pathlib import Path

from abnn_serve.evaluation.endpoints.classify import ClassifyEndpoint
from abnn_serve.evaluation.endpoints.connection import Connection
from abnn_serve.evaluation.endpoints.endpoint import Endpoint
from abnn_serve.evaluation.endpoints.function import CallableEndpoint
from abnn_serve.evaluation.endpoints.model import EndpointModel
from abnn_serve.evaluation.endpoints.options import EndpointOptions, check_authorized, is_callable
from abnn_serve.evaluation.endpoints.usage import Usage
from abnn_serve.evaluation.endpoints.v2 import V2Endpoint
from abnn_serve.evaluation.foreign.open import read_labels
from abnn_serve.evaluation.foreign.preprocess import Preprocess, read_preprocess


def open_endpoint(
    subject: str,
    options: EndpointOptions,
    *,
    folder: Path,
    attacked: bool,
    labels: Path | None = None,
    preprocess: str | None = None,
    output: str | None = None,
    size: tuple[int, int] | None = None,
) -> EndpointModel:
    """Open an endpoint or a callable.

    Args:
        subject: an address, or `module:function`.
        options: how it is asked.
        folder: keeps what was asked, in endpoint.json.
        attacked: it will be attacked, which needs permission if it runs on another machine.
        labels: class names, one a line, or a JSON list; None for its own, or those of the data.
        preprocess: of a model behind /v2 with float input; see `read_preprocess`.
        output: the class scores, where a model behind /v2 has several outputs.
        size: height and width, where the endpoint does not tell.

    Raises:
        ConfigError: it is not authorised, down, slow, wants a key, or does not speak the protocol.
    """
    names = read_labels(labels) if labels else None
    usage = Usage(folder / "endpoint.json", options.max_queries)
    endpoint: Endpoint
    if is_callable(subject):
        endpoint = CallableEndpoint(subject, size, options.per_request, usage)
    else:
        if attacked:
            check_authorized(subject, options)
        settings = read_preprocess(preprocess) if preprocess else Preprocess()
        connection = Connection(options.key, options.timeout, usage)
        try:
            if options.adapter == "classify":
                endpoint = ClassifyEndpoint(subject, connection)
            else:
                endpoint = V2Endpoint(
                    subject, connection, settings, per_request=options.per_request, output=output, size=size
                )
        except BaseException:
            connection.close()
            raise
    return EndpointModel(endpoint, options, usage, names)
