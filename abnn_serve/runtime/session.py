"""A bundle's graph in an engine, checked against the bundle's golden vectors."""

from __future__ import annotations

from typing import Any

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

GOLDEN_TOLERANCE = 1e-3  # fp32 logits differ less between processors, and far more from a wrong graph's
_VARIANT_SLACK = 3  # other processors and engines round differently


class Session:
    """Runs a bundle's graph.

    Args:
        bundle: as `load_bundle` returns it.
        device: as for `open_engine`.
        threads: threads per run; None takes all cores that this process may use.
        precision: one of the bundle's precisions.
        gpu: number of the GPU, from 0; None takes the first.

    Attributes:
        engine: runs the graph; `run` adds the input check and splits large batches.
        provider: name of the provider; if several run parts of the graph, their names joined by `+`.
        placement: number of nodes by provider and operator.
        providers: ONNX Runtime providers that run another graph on the same device.
        max_batch: largest batch per run; `run` splits larger ones.

    Raises:
        ConfigError: the bundle does not have this precision.
        DeviceError: the device is unavailable or would not run the graph.
        BundleIntegrityError: the graph does not match the manifest, or its logits the golden ones.
    """

    def __init__(
        self,
        bundle: Bundle,
        device: Device = "auto",
        threads: int | None = None,
        precision: Precision = "fp32",
        gpu: int | None = None,
    ) -> None:
        if precision not in bundle.manifest.precisions:
            raise ConfigError(
                f"{bundle.path} has no {precision} graph, only {', '.join(bundle.manifest.precisions)}; "
                f"choose one of these, or export the bundle again with --precision {precision}"
            )
        self.bundle = bundle
        self.precision = precision
        self.threads = threads or usable_cores()
        self.gpu = gpu or 0
        sampling = bundle.manifest.input.sampling
        self.max_batch = max_batch(sampling.frames if sampling else 1)
        self.engine: Engine = _open(bundle, device, self.threads, precision, self.gpu)
        self.placement = self.engine.placement
        self.providers = self.engine.providers
        self.provider = "+".join(self.placement)
        self._check_signature()
        self._check_golden()

    def run(self, images: NDArray[np.uint8] | NDArray[np.float32]) -> NDArray[np.float32]:
        """Compute the logits of single passes, without the bundle's answer rule.

        Args:
            images: uint8 (N, H, W, 3), or clips, uint8 (N, T, H, W, 3); N >= 1. Also float32 in units of uint8 pixels
                if that is the graph's input, as it is for noise.

        Returns:
            float32 (N, classes).

        Raises:
            InputShapeError: another dtype or shape.
        """
        shape, pixel_type = self.bundle.manifest.input.shape, self.bundle.manifest.pixel_type
        if images.dtype.name not in ("uint8", pixel_type) or images.shape[1:] != shape or len(images) == 0:
            raise InputShapeError(
                f"input is {images.dtype} {images.shape}, expected uint8 (N, {', '.join(map(str, shape))}), N >= 1"
            )
        pixels: NDArray[Any] = np.ascontiguousarray(images, pixel_type)
        if len(pixels) <= self.max_batch:
            return self.engine.run(pixels)
        parts = [self.engine.run(pixels[batch]) for batch in batch_slices(len(pixels), self.max_batch)]
        return np.concatenate(parts)

    def _check_signature(self) -> None:
        spec = self.bundle.manifest.input
        expected_ports = (
            Port(spec.modality, self.bundle.manifest.pixel_type, (None, *spec.shape)),
            Port("logits", "float32", (None, len(self.bundle.labels))),
        )
        for kind, ports, expected in zip(
            ("inputs", "outputs"), (self.engine.inputs, self.engine.outputs), expected_ports, strict=True
        ):
            if ports != (expected,):
                raise BundleIntegrityError(
                    f"{self.bundle.path / model_file(self.precision)} has the {kind} "
                    f"{', '.join(map(str, ports)) or 'none'}, expected {expected} with a dynamic batch; export the "
                    "bundle again"
                )

    def _check_golden(self) -> None:
        golden = self.bundle.golden
        try:
            error = float(np.abs(self.run(golden.inputs) - golden.logits).max())
        except (InputShapeError, ValueError) as problem:
            raise BundleIntegrityError(
                f"{self.bundle.path / 'golden.npz'} does not match the graph: {problem}; export the bundle again"
            ) from problem
        if not error <= self.tolerance:
            raise BundleIntegrityError(
                f"{self.bundle.path}: {self.precision} logits on {self.provider} differ from the golden logits by "
                f"{error:.2g}, the tolerance is {self.tolerance:.2g}; export the bundle again, or use another device"
            )

    @property
    def tolerance(self) -> float:
        """Largest allowed difference from the golden logits."""
        measured = [v.max_error for v in self.bundle.card.variants if v.precision == self.precision]
        return max([GOLDEN_TOLERANCE, *(_VARIANT_SLACK * error for error in measured)])


def _open(bundle: Bundle, device: Device, threads: int, precision: Precision, gpu: int) -> Engine:
    file = model_file(precision)
    try:
        return open_engine(bundle.read(file), device, threads, precision, gpu)
    except AbnnError:
        raise
    except Exception as error:  # the engines' exceptions have no common base class
        raise BundleIntegrityError(f"cannot load {bundle.path / file}: {one_line(error)}") from error
