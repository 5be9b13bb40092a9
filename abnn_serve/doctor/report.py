"""What the doctor found: checks of the environment, reports of bundles on engines, and the recommended choice."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

Status = Literal["ok", "warning", "failed"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One fact about the machine or its packages; `remedy` says what to do unless the status is `ok`."""

    name: str
    detail: str
    status: Status = "ok"
    remedy: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A bundle's graph of one precision on one device. `bundle` is its directory."""

    bundle: str
    precision: str
    device: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Latency:
    """Median and 95th percentile of the seconds of one run at a batch size."""

    batch: int
    p50: float
    p95: float


@dataclass(frozen=True, slots=True, kw_only=True)
class CaseReport:
    """How a case opened and ran. Fields keep their defaults if it failed before they were measured.

    Attributes:
        nodes: graph nodes by provider, the provider with the most first.
        graphs: whether runs replay CUDA graphs; None on other devices.
        open_seconds: time to open, warm up and replay the golden vectors once.
        memory: bytes added to the process, or on CUDA to the GPU, by opening and running; None if unknown.
        rounds: how often every batch size ran, in shuffled order.
        golden_error: largest difference from the golden logits.
        neighbour_error: largest difference of a sample's logits alone and among noise, at every batch size.
        thread_error: largest difference from the golden logits in a second thread.
        cpu_error: largest difference from the logits of ONNX Runtime on the CPU, on random images; None on the CPU.
        tolerance: largest difference allowed.
        captures: batch sizes that were captured again after warm-up; None without CUDA graphs.
        drift: the drift graph opened and reproduced the golden logits; only in fp32.
        libraries: CUDA libraries in use, name and version to path.
        error: what failed, with the remedy; empty if nothing did.
    """

    case: Case
    nodes: dict[str, int] = field(default_factory=dict)
    graphs: bool | None = None
    open_seconds: float | None = None
    memory: int | None = None
    rounds: int = 0
    latencies: tuple[Latency, ...] = ()
    golden_error: float | None = None
    neighbour_error: float | None = None
    thread_error: float | None = None
    cpu_error: float | None = None
    tolerance: float | None = None
    captures: int | None = None
    drift: bool = False
    libraries: dict[str, str] = field(default_factory=dict)
    error: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingReport:
    """How a small network trained.

    Attributes:
        device: `cpu` or `cuda`.
        images_per_second: of a network too small to compare machines by.
        cpu_error: largest difference of the trained network's float32 logits there and on the CPU; None on the CPU.
        error: what failed, with the remedy; empty if nothing did.
    """

    recipe: str
    device: str
    steps: int = 0
    images_per_second: float | None = None
    cpu_error: float | None = None
    error: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """The device and precision to serve a bundle with on this machine, and why."""

    bundle: str
    device: str
    precision: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """Everything that `abnn doctor` prints."""

    environment: tuple[Check, ...]
    cases: tuple[CaseReport, ...]
    training: tuple[TrainingReport, ...]
    choices: tuple[Choice, ...]
    seconds: float

    @property
    def failures(self) -> list[str]:
        """One line for each failure, with its remedy."""
        checks = [f"{c.name}: {c.detail}; {c.remedy}" for c in self.environment if c.status == "failed"]
        cases = [f"{r.case.bundle} {r.case.precision} on {r.case.device}: {r.error}" for r in self.cases if r.error]
        return checks + cases + [f"training {r.recipe} on {r.device}: {r.error}" for r in self.training if r.error]
