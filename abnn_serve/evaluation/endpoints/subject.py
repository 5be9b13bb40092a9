"""An endpoint, with the data on which its first answers are checked, as the subject of an evaluation."""

from __future__ import annotations

from abnn_serve.evaluation.endpoints.model import EndpointModel
from abnn_serve.evaluation.subject import OpenedSubject
from abnn_serve.lab.data.dataset import ImageData
from abnn_serve.lab.data.load import load_data


def open_endpoint_subject(model: EndpointModel, data: str) -> tuple[OpenedSubject, ImageData]:
    """The subject for an endpoint, and the data, on which its first answers are checked.

    Raises:
        ConfigError: as `EndpointModel.prepare`.
        DataError: `data` cannot be read.
    """
    try:
        labels, dataset = model.prepare(load_data(data, model.input))
    except BaseException:
        model.close()
        raise
    opened = OpenedSubject(
        subject=model.subject(),
        run=None,
        bundle=None,
        input=model.input,
        labels=labels,
        reopen=model.subject,
        endpoint=model,
        limits=(f"{model.endpoint.address} was asked over its interface alone; what runs behind it was not seen.",),
    )
    return opened, dataset
