"""A run on disk: configuration (`run.json`), metrics, checkpoints (`epoch-*.pt`) and final weights (`weights.pt`)."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from abnn_serve.card import RobustnessCard, TrainingCost
from abnn_serve.codec import OMITTED_IF_NONE, canonical, from_json, to_json
from abnn_serve.errors import TrainingError, one_line
from abnn_serve.files import atomic_write
from abnn_serve.lab.abnn.mixture import MixtureNetwork, MixtureRule
from abnn_serve.lab.abnn.network import IMAGENET_MEAN, IMAGENET_STD, AdaptiveNetwork, Network, PixelNetwork
from abnn_serve.lab.abnn.plan import SurgeryPlan
from abnn_serve.lab.abnn.surgery import apply_plan
from abnn_serve.lab.data.dataset import ImageData
from abnn_serve.lab.networks.zoo import build_network
from abnn_serve.lab.training.recipe import Recipe
from abnn_serve.spec import InputSpec, Labels

NOT_EVALUATED = (
    "Robustness has not been evaluated: no attack was run on this model, in any threat model. Until `abnn evaluate` "
    "measures it, trust the model no more than an undefended one."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkConfig:
    """Architecture and input normalisation of a network; the weights are stored separately."""

    name: str
    classes: int
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    size: tuple[int, int] | None = None

    def build(self, *, weights: bool = False) -> PixelNetwork:
        """Build the network with random weights, or with `weights` the published ones named after '@'."""
        name = self.name if weights else self.name.partition("@")[0]
        return PixelNetwork(build_network(name, self.classes), self.mean, self.std, self.size)


@dataclass(frozen=True, slots=True, kw_only=True)
class MixtureConfig:
    """The rule of a mixture, and its clean half: a plain network, or an ABNN."""

    rule: MixtureRule
    target: NetworkConfig
    substitute: NetworkConfig | None
    plan: SurgeryPlan | None


@dataclass(frozen=True, slots=True, kw_only=True)
class RunConfig:
    """Everything except the hardware that determines a run's weights.

    `target`, `substitute` and `plan` are the network, or the robust half of a mixture.
    """

    recipe: Recipe
    target: NetworkConfig
    substitute: NetworkConfig | None
    plan: SurgeryPlan | None
    input: InputSpec
    labels: Labels
    seed: int
    data: str
    data_digest: str
    data_count: int
    val: str
    val_digest: str
    substitute_source: str | None = None
    substitute_seconds: float | None = None
    init_source: str | None = None
    init_seconds: float | None = None
    teacher_source: str | None = None
    mixture: MixtureConfig | None = field(default=None, metadata=OMITTED_IF_NONE)

    def build(self) -> Network:
        """Build the network with initial weights."""
        network = _build(self)
        if self.mixture is None:
            return network
        return MixtureNetwork(network, _build(self.mixture), self.mixture.rule)


def _build(config: RunConfig | MixtureConfig) -> PixelNetwork | AdaptiveNetwork:
    target = config.target.build()
    if config.substitute is None or config.plan is None:
        return target
    return apply_plan(target, config.substitute.build(), config.plan)


class Run:
    """A run directory. Every file is written atomically, so a kill never leaves a partial one."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    @property
    def exists(self) -> bool:
        """Whether the directory holds a `run.json`."""
        return (self.path / "run.json").is_file()

    @property
    def config(self) -> RunConfig:
        """Configuration in `run.json`; TrainingError if there is none."""
        try:
            value = json.loads((self.path / "run.json").read_text())
        except (OSError, ValueError) as error:
            raise TrainingError(f"{self.path} is not a run directory of `abnn train` ({error})") from error
        return from_json(RunConfig, value, str(self.path / "run.json"), TrainingError)

    def write_config(self, config: RunConfig) -> None:
        """Write `run.json`."""
        self.write_text("run.json", canonical(to_json(config)).decode())

    @property
    def metrics(self) -> list[dict[str, Any]]:
        """One record for each finished epoch."""
        text = (self.path / "metrics.jsonl").read_text()
        return [json.loads(line) for line in text.splitlines()]

    def write_metrics(self, history: list[dict[str, Any]]) -> None:
        """Write `metrics.jsonl`, one record for each finished epoch."""
        self.write_text("metrics.jsonl", "".join(json.dumps(row) + "\n" for row in history))

    @property
    def seconds(self) -> float:
        """Seconds spent in training steps."""
        return round(sum(float(row["seconds"]) for row in self.metrics), 1)

    @property
    def total_seconds(self) -> float:
        """Seconds spent in training steps, including the run that this one started from; excludes the substitute."""
        return self.seconds + (self.config.init_seconds or 0)

    @property
    def checkpoints(self) -> list[Path]:
        """Checkpoint files, oldest first."""
        return sorted(self.path.glob("epoch-*.pt"))

    def write_text(self, name: str, text: str) -> None:
        """Write a UTF-8 text file atomically."""
        with atomic_write(self.path / name) as file:
            file.write(text.encode())

    def write_tensors(self, name: str, value: dict[str, Any]) -> None:
        """Write tensors with `torch.save`, atomically."""
        with atomic_write(self.path / name) as file:
            torch.save(value, file)

    def checkpoint(self, epoch: int, state: dict[str, Any]) -> None:
        """Write the state after `epoch`; keep this checkpoint and the previous one."""
        self.write_tensors(f"epoch-{epoch:06}.pt", state)
        for outdated in self.checkpoints[:-2]:
            outdated.unlink()

    def network(self) -> Network:
        """Load the trained network, on the CPU and in eval mode; TrainingError if the run is unfinished or damaged."""
        weights = self.path / "weights.pt"
        if not weights.is_file():
            raise TrainingError(
                f"{self.path} has no weights.pt; finish training with `abnn train ... --out {self.path} --resume`"
            )
        network = self.config.build()
        try:
            network.load_state_dict(torch.load(weights, map_location="cpu", weights_only=True))
        except Exception as error:  # torch raises many classes on a damaged file
            raise TrainingError(
                f"cannot load {weights} ({one_line(error)}); resume the run to write the file again"
            ) from error
        return network.eval()


def new_card(run: Run, data: ImageData, model_sha256: str) -> RobustnessCard:
    """The card of a finished run before any accuracy is measured.

    Args:
        run: supplies the training cost.
        data: the evaluation data that the card names.
        model_sha256: of the model file that will be measured.
    """
    config, metrics = run.config, run.metrics
    return RobustnessCard(
        model_sha256=model_sha256,
        data=data.name,
        data_digest=data.digest,
        clean=None,
        training=TrainingCost(
            recipe=config.recipe.name,
            epochs=metrics[-1]["epoch"],
            images=config.data_count,
            passes_per_step=config.recipe.passes,
            seconds=run.seconds,
            hardware=metrics[-1]["hardware"],
            substitute_seconds=config.substitute_seconds,
            init_seconds=config.init_seconds,
        ),
        limits=(NOT_EVALUATED,),
    )
