"""A bundle's graph ready to run, and the proof that it computes what was exported."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from abnn_serve.arrays import batch_slices
from abnn_serve.bundle.store import Bundle
from abnn_serve.errors import AbnnError, BundleIntegrityError, ConfigError, InputShapeError, one_line
from abnn_serve.hardware import usable_cores
from abnn_serve.runtime.engine import Engine, Port, max_batch
from abnn_serve.runtime.providers import open_engine
from abnn_serve.runtime.settings import Device
from abnn_serve.spec import Precision, model_file

GOLDEN_TOLERANCE = 1e-3  # processors differ in the last digits of fp32; a wrong graph differs by far more
_VARIANT_SLACK = 3  # other processors and engines round elsewhere


class Session:
    """A bundle's graph, ready to run.

    Args:
        bundle: verified by `load_bundle`.
        device: as for `open_engine`.
        threads: of one run; None takes the cores that this process may use.
        precision: one that the bundle has.

    Attributes:
        provider: what runs the graph; several, where parts run on others, joined by `+`.
        placement: how many nodes of each kind run on which provider.
        providers: with which ONNX Runtime runs another graph in the same place.
        max_batch: samples in one run.

    Raises:
        ConfigError: the bundle lacks this precision.
        DeviceError: the device that was asked for would not run the graph.
        BundleIntegrityError: other inputs or outputs than declared, or other logits than the golden ones.
    """

    def __init__(
        self, bundle: Bundle, device: Device = "auto", threads: int | None = None, precision: Precision = "fp32"
    ) -> None:
        if precision not in bundle.manifest.precisions:
            raise ConfigError(
                f"{bundle.path} has no {precision} graph, only {', '.join(bundle.manifest.precisions)}; "
                f"choose one of these, or export it again with --precision {precision}"
            )
        self.bundle = bundle
        self.precision = precision
        self.threads = threads or usable_cores()
        sampling = bundle.manifest.input.sampling
        self.max_batch = max_batch(sampling.frames if sampling else 1)
        self._engine = _open(bundle, device, self.threads, precision)
        self.placement = self._engine.placement
        self.providers = self._engine.providers
        self.provider = "+".join(self.placement)
        self._check_signature()
        self._check_golden()

    def run(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """uint8 (N, H, W, 3), or clips (N, T, H, W, 3), to logits, float32 (N, classes); N is at least 1.

        Raises:
            InputShapeError: another dtype or shape.
        """
        shape = self.bundle.manifest.input.shape
        if images.dtype != np.uint8 or images.shape[1:] != shape or len(images) == 0:
            raise InputShapeError(
                f"input is {images.dtype} {images.shape}, expected uint8 (N, {', '.join(map(str, shape))}), N >= 1"
            )
        images = np.ascontiguousarray(images)
        if len(images) <= self.max_batch:
            return self._engine.run(images)
        parts = [self._engine.run(images[batch]) for batch in batch_slices(len(images), self.max_batch)]
        return np.concatenate(parts)

    def _check_signature(self) -> None:
        spec = self.bundle.manifest.input
        wanted = (
            Port(spec.modality, "uint8", (None, *spec.shape)),
            Port("logits", "float32", (None, len(self.bundle.labels))),
        )
        for kind, found, port in zip(
            ("inputs", "outputs"), (self._engine.inputs, self._engine.outputs), wanted, strict=True
        ):
            if found != (port,):
                raise BundleIntegrityError(
                    f"{self.bundle.path / model_file(self.precision)} has the {kind} "
                    f"{', '.join(map(str, found)) or 'none'}, expected {port} with a dynamic batch; export it again"
                )

    def _check_golden(self) -> None:
        golden = self.bundle.golden
        try:
            error = float(np.abs(self.run(golden.inputs) - golden.logits).max())
        except (InputShapeError, ValueError) as problem:
            raise BundleIntegrityError(
                f"{self.bundle.path / 'golden.npz'} does not fit the graph: {problem}"
            ) from problem
        if not error <= self._tolerance:
            raise BundleIntegrityError(
                f"{self.bundle.path} in {self.precision} on {self.provider} gives logits that differ by {error:.2g} "
                f"from the golden ones, {self._tolerance:.2g} is allowed; export it again, or use another device"
            )

    @property
    def _tolerance(self) -> float:
        measured = [v.max_error for v in self.bundle.card.variants if v.precision == self.precision]
        return max([GOLDEN_TOLERANCE, *(_VARIANT_SLACK * error for error in measured)])


def _open(bundle: Bundle, device: Device, threads: int, precision: Precision) -> Engine:
    file = model_file(precision)
    try:
        return open_engine(bundle.read(file), device, threads, precision)
    except AbnnError:
        raise
    except Exception as error:  # the engines' exception classes share no base of their own
        raise BundleIntegrityError(f"{bundle.path / file} cannot be loaded: {one_line(error)}") from error
