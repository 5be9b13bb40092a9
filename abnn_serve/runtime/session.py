"""The ONNX Runtime session of a bundle: provider, threads, and the proof that it computes what was exported."""

from __future__ import annotations

import functools
import importlib.metadata
import logging
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from abnn_serve.bundle.store import Bundle
from abnn_serve.errors import BundleIntegrityError, ConfigError, DeviceError, InputShapeError, one_line
from abnn_serve.hardware import has_cuda_device, usable_cores
from abnn_serve.runtime.graph_file import graph_opset
from abnn_serve.runtime.settings import Device
from abnn_serve.spec import Precision, model_file

log = logging.getLogger("abnn_serve")

GOLDEN_TOLERANCE = 1e-3  # processors differ in the last digits of fp32; a wrong graph differs by far more
MAX_BATCH = 64  # pictures, or frames, in one run
CPU = "CPUExecutionProvider"
_SEVERITY_ERROR = 3
_VARIANT_SLACK = 1.5  # other processors round elsewhere


class Session:
    """A bundle's graph, ready to run.

    Args:
        bundle: verified by `load_bundle`.
        device: `cpu`, `cuda`, or `auto`: CUDA where there is one, else the CPU with one warning.
        threads: of one run; None takes the cores that this process may use.
        precision: one that the bundle has.

    Raises:
        ConfigError: the bundle lacks this precision.
        DeviceError: `cuda` was asked for and the graph would not run there.
        BundleIntegrityError: other inputs, outputs or opset than declared, or other logits than the golden ones.
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
        _warn_of_two_builds()
        self._session = _create(bundle, device, self.threads, model_file(precision))
        self.provider: str = self._session.get_providers()[0]
        self._check_signature()
        self._check_golden()

    def run(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """uint8 (N, H, W, 3), or clips (N, T, H, W, 3), to logits, float32 (N, classes); N is at least 1.

        Raises:
            InputShapeError: another dtype or shape.
        """
        spec = self.bundle.manifest.input
        shape, batch = spec.shape, MAX_BATCH
        if spec.sampling:
            batch = max(1, MAX_BATCH // spec.sampling.frames)
        if images.dtype != np.uint8 or images.shape[1:] != shape or len(images) == 0:
            raise InputShapeError(
                f"input is {images.dtype} {images.shape}, expected uint8 (N, {', '.join(map(str, shape))}), N >= 1"
            )
        parts = [
            self._session.run(["logits"], {spec.modality: np.ascontiguousarray(images[start : start + batch])})[0]
            for start in range(0, len(images), batch)
        ]
        logits: NDArray[np.float32] = np.concatenate(parts)
        return logits

    def _check_signature(self) -> None:
        where = self.bundle.path / model_file(self.precision)
        spec = self.bundle.manifest.input
        (wanted_in, wanted_out) = (
            (spec.modality, "tensor(uint8)", list(spec.shape)),
            ("logits", "tensor(float)", [len(self.bundle.labels)]),
        )
        for kind, nodes, wanted in (
            ("inputs", self._session.get_inputs(), wanted_in),
            ("outputs", self._session.get_outputs(), wanted_out),
        ):
            found = [(node.name, node.type, list(node.shape[1:])) for node in nodes]
            dynamic = all(not isinstance(node.shape[0], int) for node in nodes if node.shape)
            if found != [wanted] or not dynamic:
                raise BundleIntegrityError(
                    f"{where} has the {kind} {found}, expected {[wanted]} with a dynamic batch; export it again"
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


def open_graph(model: bytes, threads: int, providers: Sequence[Any] = (CPU,)) -> ort.InferenceSession:
    """A serialised graph in ONNX Runtime, with the options that serving uses."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = _SEVERITY_ERROR
    return ort.InferenceSession(model, options, providers=list(providers))


def _create(bundle: Bundle, device: Device, threads: int, file: str) -> ort.InferenceSession:
    providers = _providers(device)
    model = bundle.read(file)
    _check_opset(bundle, file, model)
    try:
        session = open_graph(model, threads, providers)
    except Exception as error:  # ORT's exception classes share no base of their own
        reason = one_line(error)
        raise BundleIntegrityError(f"{bundle.path / file} cannot be loaded by ONNX Runtime: {reason}") from error
    asked, found = _name(providers[0]), session.get_providers()[0]
    if asked != found:
        problem = f"ONNX Runtime could not start {asked} and would use {found}"
        if device == "cuda":
            raise DeviceError(
                f"ABNN_DEVICE is 'cuda' but {problem}; install its CUDA libraries: pip install 'abnn_serve[cuda]'"
            )
        log.warning("%s", problem)
    return session


def _providers(device: Device) -> list[Any]:
    if device == "cpu":
        return [CPU]
    lacking = (
        "this machine has no CUDA device"
        if not has_cuda_device()
        else "this ONNX Runtime was built without CUDA"
        if "CUDAExecutionProvider" not in ort.get_available_providers()
        else None
    )
    if lacking and device == "cuda":
        raise DeviceError(
            f"ABNN_DEVICE is 'cuda' but {lacking}; set ABNN_DEVICE=cpu, or install a driver and 'abnn_serve[cuda]'"
        )
    if lacking:
        _say_once(f"running on the CPU: {lacking}")
        return [CPU]
    ort.preload_dlls()
    return [("CUDAExecutionProvider", {"use_tf32": "0"}), CPU]


def _name(provider: Any) -> str:
    return str(provider if isinstance(provider, str) else provider[0])


def _check_opset(bundle: Bundle, file: str, model: bytes) -> None:
    found, declared = graph_opset(model), bundle.manifest.opset
    if found != declared:
        raise BundleIntegrityError(
            f"{bundle.path / file} has opset {found}, bundle.json says {declared}; export it again"
        )


@functools.cache
def _say_once(message: str) -> None:
    log.warning("%s", message)


@functools.cache
def _warn_of_two_builds() -> None:
    installed = {d.metadata["Name"].lower() for d in importlib.metadata.distributions(name="onnxruntime")}
    installed |= {d.metadata["Name"].lower() for d in importlib.metadata.distributions(name="onnxruntime-gpu")}
    if {"onnxruntime", "onnxruntime-gpu"} <= installed:
        warnings.warn(
            "onnxruntime and onnxruntime-gpu are both installed and overwrite each other; "
            "uninstall both, then install abnn_serve again",
            RuntimeWarning,
            stacklevel=2,
        )
