"""export_bundle(): export a finished run as a bundle whose graph agrees with torch, or write nothing."""

from __future__ import annotations

import hashlib
import importlib.metadata
import platform
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnxruntime

from abnn_serve.answer import Answer, parse_answer
from abnn_serve.arrays import batch_slices
from abnn_serve.bundle.golden import Golden, pack_golden
from abnn_serve.bundle.manifest import FileEntry, Manifest, Parity, format_version_of
from abnn_serve.bundle.store import Bundle, pack_json, write_bundle
from abnn_serve.card import Accuracy, RobustnessCard, Variant
from abnn_serve.errors import BundleIntegrityError, ExportError, ParityError
from abnn_serve.export.drift import record_drift
from abnn_serve.export.graph import OPSET, export_stages
from abnn_serve.export.parity import TOLERANCE, check_parity
from abnn_serve.export.pass_timing import Gain, measure_gains
from abnn_serve.export.passes import Stage
from abnn_serve.export.variants import Reference, make_variant, measure_variant
from abnn_serve.lab.abnn.network import ServedNetwork, torch_logits
from abnn_serve.lab.data.dataset import ImageData
from abnn_serve.lab.data.load import agree
from abnn_serve.lab.training.run import Run, RunConfig, new_card
from abnn_serve.lab.training.views import fill_of
from abnn_serve.lab.training.weights_file import WEIGHTS_FILE, pack_weights
from abnn_serve.runtime.drift import DRIFT_FILE
from abnn_serve.runtime.predictor import Predictor
from abnn_serve.runtime.session import Session
from abnn_serve.runtime.verify import check_graphs
from abnn_serve.spec import Precision, model_file
from abnn_serve.version import __version__

_GOLDEN_IMAGES = 4


def export_bundle(
    run: Run,
    out: str | Path,
    data: ImageData,
    *,
    version: str = "1",
    parity_images: int = 1000,
    tolerance: float = TOLERANCE,
    precisions: Sequence[Precision] = ("fp32",),
    calibration: ImageData | None = None,
    allow_loss: bool = False,
    answer: str = "plain",
    on_stage: Callable[[str], None] = lambda _: None,
    on_passes: Callable[[list[Gain]], None] | None = None,
) -> Bundle:
    """Export a finished run as a bundle, with the fp32 weights that its graph does not hold if they take at most 25 MB.

    Args:
        run: a finished run of `abnn train`.
        out: directory of the bundle, replaced if it exists; its last part becomes the bundle's name.
        data: held-out images, all of them used to measure clean accuracy.
        version: version to record in the bundle.
        parity_images: number of images of `data` on which to check parity, at least 1.
        tolerance: largest allowed difference between the logits of torch and of the serving session.
        precisions: fp32, optionally followed by variants.
        calibration: images that calibrate the ranges of an int8 variant.
        allow_loss: keep a variant that loses more than half a point of clean accuracy.
        answer: the answer rule, as `parse_answer` reads it; masks are filled with the mean of the training images.
        on_stage: called with a description of each stage as it starts.
        on_passes: if given, the graph passes are timed and it is called with the result.

    Raises:
        ExportError: the network cannot be exported or a variant is not accurate enough; `out` is unchanged.
        ParityError: the exported graph disagrees with torch; `out` is unchanged.
    """
    config = run.config
    _check_data(config, data)
    data = agree(config.labels, data)
    if calibration is not None and config.input.sampling:
        raise ExportError("int8 is for images; export networks for clips without it")
    network = run.network()
    fill = [round(255 * value) for value in fill_of(network).tolist()]
    rule = parse_answer(answer, (config.input.height, config.input.width), (fill[0], fill[1], fill[2]))
    if rule and tuple(precisions) != ("fp32",):
        raise ExportError(f"the answer rule {answer!r} is served in fp32 only; omit the other precisions")
    pixel_type = "float32" if rule and rule.noise else "uint8"
    on_stage("exporting the graph")
    served = ServedNetwork(network).eval()
    inputs, images = data.spread(_GOLDEN_IMAGES).images, data.spread(parity_images).images
    golden = Golden(inputs=inputs, logits=torch_logits(served, inputs))
    name = Path(out).name
    stages = export_stages(network, config.input, pixel_type)
    with tempfile.TemporaryDirectory() as scratch:

        def open_draft(stage: Stage) -> Session:
            card = new_card(run, data, hashlib.sha256(stage.model).hexdigest())
            unchecked = Parity(tolerance=tolerance, max_error=0.0, images=0, batch_sizes=())
            files = _files({"model.onnx": stage.model}, config, card, golden)
            describe = _describe(config, name, version, unchecked, ("fp32",), rule)
            draft = write_bundle(Path(scratch) / name, files, describe)
            return Session(draft, "cpu")

        on_stage(f"comparing with torch on {len(images):,} images")
        kept, session, parity = _last_stage_in_parity(
            stages, open_draft, lambda session: check_parity(served, session, images, tolerance), on_stage
        )
        on_stage(f"measuring clean accuracy on {len(data):,} images")
        clean = _clean_accuracy(Predictor(session), data)
    card = replace(session.bundle.card, clean=clean)
    if on_passes:
        on_stage("timing the graph passes")
        on_passes(measure_gains(kept, inputs[:1].astype(pixel_type)))
    models = {"model.onnx": kept[-1].model}
    variants: list[Variant] = []
    reference = Reference(data=data, clean=clean, images=images, logits=torch_logits(served, images))
    for precision in precisions[1:]:
        on_stage(f"converting to {precision} and measuring it on {len(data):,} images")
        models[model_file(precision)] = model = make_variant(kept[-1].model, precision, calibration)
        source = calibration.name if calibration else ""
        variants += measure_variant(model, precision, source, reference, allow_loss=allow_loss)
    card = replace(card, variants=tuple(variants))
    on_stage(f"recording clean statistics for drift on {len(data):,} images")
    if pixel_type == "uint8" and (drift := record_drift(kept[-1].model, data.images)):
        models[DRIFT_FILE] = drift[0]
        card = replace(card, drift=drift[1])
    if (weights := pack_weights(run, kept[-1].model)) is not None:
        models[WEIGHTS_FILE] = weights
    on_stage("writing the bundle")
    return write_bundle(
        out,
        _files(models, config, card, golden),
        _describe(config, name, version, parity, tuple(precisions), rule),
        check=check_graphs,
    )


def _last_stage_in_parity(
    stages: list[Stage],
    open_draft: Callable[[Stage], Session],
    check: Callable[[Session], Parity],
    on_stage: Callable[[str], None],
) -> tuple[list[Stage], Session, Parity]:
    """The stages up to the last one whose graph passes `check`, its session and its parity.

    A pass that breaks parity is skipped, together with those after it, and reported to `on_stage`.
    """
    for kept in range(len(stages), 0, -1):
        try:
            session = open_draft(stages[kept - 1])
            return stages[:kept], session, check(session)
        except (ParityError, BundleIntegrityError) as error:
            if kept == 1:
                raise
            on_stage(f"skipping graph pass {stages[kept - 1].name!r}: {error}")
    raise ExportError("torch exported nothing")


def _check_data(config: RunConfig, data: ImageData) -> None:
    if data.images.shape[1:] != config.input.shape:
        raise ExportError(
            f"the data has images of shape {data.images.shape[1:]}, the network expects {config.input.shape}"
        )
    if data.digest == config.data_digest:
        raise ExportError("the network was trained on this data; give held-out images")


def _files(models: dict[str, bytes], config: RunConfig, card: RobustnessCard, golden: Golden) -> dict[str, bytes]:
    return {
        **models,
        "labels.json": pack_json(config.labels),
        "card.json": pack_json(card),
        "golden.npz": pack_golden(golden),
    }


def _describe(
    config: RunConfig,
    name: str,
    version: str,
    parity: Parity,
    precisions: tuple[Precision, ...],
    answer: Answer | None,
) -> Callable[[dict[str, FileEntry]], Manifest]:
    def describe(files: dict[str, FileEntry]) -> Manifest:
        return Manifest(
            name=name,
            version=version,
            input=config.input,
            pairs=config.plan.pairs if config.plan else (),
            opset=OPSET,
            precisions=precisions,
            toolchain=_toolchain(),
            parity=parity,
            files=files,
            format_version=format_version_of(config.input, answer),
            answer=answer,
        )

    return describe


def _toolchain() -> dict[str, str]:
    packages = ("torch", "onnx", "onnxscript", "numpy")
    return {
        "abnn_serve": __version__,
        "python": platform.python_version(),
        **{package: importlib.metadata.version(package) for package in packages},
        "onnxruntime": str(onnxruntime.__version__),
    }


def _clean_accuracy(predictor: Predictor, data: ImageData) -> Accuracy:
    size = data.chunk(500)
    parts = [predictor.predict(data.images[batch], top_k=1) for batch in batch_slices(len(data), size)]
    scores, labels = data.by_video(np.stack([answer.logits for part in parts for answer in part]))
    return Accuracy(correct=int((scores.argmax(axis=1) == labels).sum()), n=len(labels))
