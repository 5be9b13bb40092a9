"""Open an ONNX file, with the data that decide whether it is read rightly, as the subject of an evaluation."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

from abnn_serve.evaluation.foreign.open import COMPARED, ForeignModel
from abnn_serve.evaluation.subject import OpenedSubject, plain_network
from abnn_serve.evaluation.threats import Subject
from abnn_serve.lab.data.dataset import ImageData
from abnn_serve.lab.data.load import agree, load_data

_CLEAN_IMAGES = 200


def open_foreign_subject(
    foreign: ForeignModel,
    data: str,
    *,
    gradients: bool = True,
    twin: str | Path | None = None,
    draws: int = 1,
) -> tuple[OpenedSubject, ImageData]:
    """The subject for an ONNX file, and the data, which decide whether its torch form and its preprocessing are right.

    Args:
        foreign: the file, as `open_foreign` returns it.
        data: as for `load_data`.
        gradients: convert the file to torch, for white-box attacks.
        twin: an undefended run with the same input.
        draws: see `Subject`.

    Raises:
        ConfigError: other labels, accuracy as by chance, or a file that cannot be converted.
        DataError: `data` cannot be read.
    """
    dataset = load_data(data, foreign.input)
    labels = foreign.labels_for(dataset)
    dataset = agree(labels, dataset)
    foreign.check_accuracy(dataset.spread(_CLEAN_IMAGES))
    plain = plain_network("twin", twin) if twin else None
    subject, limits = foreign.subject(dataset, gradients=gradients, twin=plain, draws=draws)
    opened = OpenedSubject(
        subject=subject,
        run=None,
        bundle=None,
        input=foreign.input,
        labels=labels,
        reopen=partial(
            _reopened_foreign, foreign.reopen, dataset.spread(COMPARED), gradients=gradients, twin=twin, draws=draws
        ),
        foreign=foreign,
        limits=limits,
    )
    return opened, dataset


def _reopened_foreign(
    reopen: Callable[[], ForeignModel], data: ImageData, *, gradients: bool, twin: str | Path | None, draws: int
) -> Subject:
    plain = plain_network("twin", twin) if twin else None
    return reopen().subject(data, gradients=gradients, twin=plain, draws=draws)[0]
