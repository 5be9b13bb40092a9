"""Open whatever a user names as the subject of an evaluation, with its data."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path

from abnn_serve.bundle.manifest import MANIFEST
from abnn_serve.errors import ConfigError
from abnn_serve.evaluation.endpoints.open import open_endpoint
from abnn_serve.evaluation.endpoints.options import EndpointOptions, is_address, is_callable
from abnn_serve.evaluation.endpoints.subject import open_endpoint_subject
from abnn_serve.evaluation.foreign.open import open_foreign
from abnn_serve.evaluation.foreign.subject import open_foreign_subject
from abnn_serve.evaluation.subject import OpenedSubject, open_subject
from abnn_serve.lab.data.dataset import ImageData
from abnn_serve.lab.data.load import agree, load_data
from abnn_serve.runtime.settings import Device


@dataclass(frozen=True, slots=True, kw_only=True)
class OnnxOptions:
    """What a user may say about an ONNX file or an endpoint; see `foreign.open.open_foreign`."""

    labels: str | Path | None = None
    preprocess: str | None = None
    output: str | None = None
    size: tuple[int, int] | None = None
    gradients: str | Path | None = None


def open_any(
    path: str | Path,
    data: str,
    *,
    run: str | Path | None = None,
    twin: str | Path | None = None,
    probe: str | Path | None = None,
    onnx: OnnxOptions = OnnxOptions(),
    endpoint: EndpointOptions | None = None,
    eot: int = 1,
    straight_through: bool = False,
    folder: Path = Path(),
    attacked: bool = True,
    needs_gradients: bool = True,
    device: Device = "cpu",
) -> tuple[OpenedSubject, ImageData]:
    """The subject and its data.

    Args:
        path: a finished run, a bundle, an ONNX file, an endpoint's address or `module:function`.
        data: as for `load_data`.
        run: see `open_subject`, as for `twin` and `probe`.
        twin: as there.
        probe: as there.
        onnx: for an ONNX file, and its labels, preprocessing, output and size for an endpoint.
        endpoint: for an endpoint; None for the defaults.
        eot: draws of a random subject; of an endpoint, answers to each image.
        straight_through: attackers differentiate rounding and signs as the identity.
        folder: where an endpoint's queries are counted.
        attacked: the subject will be attacked.
        needs_gradients: attacks will differentiate the subject.
        device: of a bundle's session.

    Raises:
        ConfigError: an option that does not fit the subject, or a subject that cannot be opened.
        DataError: `data` cannot be read, or its classes are not the subject's.
    """
    if (is_endpoint := is_address(str(path)) or _names_callable(path)) and (run or twin or probe or onnx.gradients):
        raise ConfigError("--run, --twin, --probe and --gradients are not for endpoints; omit them")
    if endpoint is not None and not is_endpoint:
        raise ConfigError(
            f"{path} is not an endpoint, so --adapter, --key-env, --concurrency, --per-request, --timeout, "
            "--max-queries, --labels-only and --authorized have no effect; omit them"
        )
    if is_endpoint:
        model = open_endpoint(
            str(path),
            replace(endpoint or EndpointOptions(), repeats=eot),
            folder=folder,
            attacked=attacked,
            labels=Path(onnx.labels) if onnx.labels else None,
            preprocess=onnx.preprocess,
            output=onnx.output,
            size=onnx.size,
        )
        return open_endpoint_subject(model, data)
    if Path(path).suffix == ".onnx":
        if run or probe:
            raise ConfigError("--run and --probe are for runs and bundles; for an ONNX file omit them")
        foreign = open_foreign(
            Path(path),
            labels=Path(onnx.labels) if onnx.labels else None,
            preprocess=onnx.preprocess,
            output=onnx.output,
            size=onnx.size,
            gradients=Path(onnx.gradients) if onnx.gradients else None,
        )
        return open_foreign_subject(foreign, data, gradients=needs_gradients, twin=twin, draws=eot)
    if onnx != OnnxOptions():
        raise ConfigError("--labels, --preprocess, --output, --size and --gradients are for ONNX files; omit them")
    opened = open_subject(
        path, run=run, twin=twin, probe=probe, device=device, straight_through=straight_through, draws=eot
    )
    return opened, agree(opened.labels, load_data(data, opened.input))


def output_folder(path: str | Path, run: str | Path | None = None) -> Path:
    """Where `evaluate` writes its results by default: in a run, or beside the working directory's bundles and files."""
    if is_address(str(path)):
        return Path(re.sub(r"[^A-Za-z0-9.-]+", "-", str(path).partition("://")[2]).strip("-") + "-evaluation")
    if Path(path).suffix == ".onnx":
        return Path(f"{Path(path).stem}-evaluation")
    if _names_callable(path):
        return Path(f"{str(path).replace(':', '-')}-evaluation")
    own = Path(run or path)
    return Path(f"{own.name}-evaluation") if (own / MANIFEST).is_file() else own / "evaluation"


def _names_callable(path: str | Path) -> bool:
    return is_callable(str(path)) and not Path(path).exists()
