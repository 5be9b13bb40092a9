"""Train from a request: read the data, build the networks, write the configuration, run the loop."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args

import torch

from abnn_serve.arrays import batch_slices
from abnn_serve.codec import to_json
from abnn_serve.errors import ConfigError, TrainingError
from abnn_serve.lab.abnn.adaptive_norm import Form
from abnn_serve.lab.abnn.network import (
    KINETICS_MEAN,
    KINETICS_STD,
    AdaptiveNetwork,
    Network,
    PixelNetwork,
    check_logits,
)
from abnn_serve.lab.abnn.plan import SurgeryPlan, plan_pairs
from abnn_serve.lab.abnn.surgery import apply_plan, without_taps
from abnn_serve.lab.data.dataset import ImageData
from abnn_serve.lab.data.load import agree, load_data
from abnn_serve.lab.networks.zoo import load_state
from abnn_serve.lab.training.batches import to_input
from abnn_serve.lab.training.distributed import Workers, join_workers
from abnn_serve.lab.training.loop import Progress, fit
from abnn_serve.lab.training.recipes import Recipe
from abnn_serve.lab.training.run import NetworkConfig, Run, RunConfig
from abnn_serve.lab.training.weights_file import BundledRun, open_run
from abnn_serve.spec import InputSpec

_CALIBRATION = 2048  # images for standardising the substitute's statistics


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainRequest:
    """A training run as the user requests it; networks are named as in `build_network`, data as in `load_data`.

    Attributes:
        form, rank: of the adaptive layers; None takes the defaults of `plan_pairs`. A plan or an ABNN run has its own.
        target: name of the network; None takes that of `init`.
        teacher: finished run or bundle whose predictions the loss compares with, weighted by `teacher_weight`.
        init: finished run, or bundle with weights, to start from. An ABNN run provides target, substitute and plan; a
            plain run provides the target's weights, without the head if the classes differ.
    """

    recipe: Recipe
    data: str
    val: str
    input: InputSpec
    target: str | None = None
    init: str | None = None
    substitute: str | None = None
    teacher: str | None = None
    plan: SurgeryPlan | None = None
    form: Form | None = None
    rank: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if self.form not in (None, *get_args(Form)):
            raise ConfigError(f"form is {self.form!r}, expected one of {', '.join(get_args(Form))}")
        if self.recipe.fine_tunes and self.init is None:
            raise ConfigError(f"recipe {self.recipe.name!r} needs --init RUN, the finished run to start from")
        if self.target is None and self.init is None:
            raise ConfigError("no network to train; give --target NAME, or --init RUN to start from a finished run")
        if self.recipe.adaptive and self.substitute is None and self.init is None:
            raise ConfigError(f"recipe {self.recipe.name!r} needs --substitute, a network's name or a finished run")
        if not self.recipe.adaptive and (options := self.adaptive_options):
            raise ConfigError(f"recipe {self.recipe.name!r} takes no {options[0]}; did you mean 'abnn'?")
        if bool(self.recipe.teacher_weight) != bool(self.teacher):
            raise ConfigError("--teacher and --set teacher_weight=1 go together; give both or neither")
        if self.plan and (self.form or self.rank):
            raise ConfigError("--plan already sets form and rank of the adaptive layers; leave out --form and --rank")

    @property
    def adaptive_options(self) -> list[str]:
        """Command-line names of the options about adaptive layers that were given."""
        names = ("substitute", "plan", "form", "rank")
        return [f"--{name}" for name in names if getattr(self, name) is not None]


def train(
    request: TrainRequest,
    out: str | Path,
    *,
    resume: bool = False,
    device: str = "cpu",
    compiled: bool = False,
    on_start: Callable[[RunConfig, ImageData, ImageData], None] = lambda *_: None,
    on_progress: Callable[[Progress], None] = lambda _: None,
) -> Run:
    """Train as `request` says and write the run to the directory `out`.

    Under `torchrun`, each process trains on its share of every batch (gloo on CPUs, nccl on GPUs); the weights equal
    those of a single process up to rounding.

    Args:
        request: what to train, on which data.
        out: directory of the run.
        resume: continue the run in `out` from its last checkpoint.
        device: `cpu` or `cuda`.
        compiled: compile the network with `torch.compile`.
        on_start: called with the configuration, the training data and the validation data before the first step.
        on_progress: called every few steps.

    Raises:
        TrainingError: `out` already holds a run and `resume` is off, or its configuration differs from `request`.
        DataError, NetworkError, SurgeryError: the data cannot be read, or the networks do not fit.
    """
    run = Run(out)
    workers, device = join_workers(device)
    started = run.exists
    workers.wait()
    if started and not resume:
        raise TrainingError(f"{run.path} already holds a run; add --resume to continue it, or choose another --out")
    data, val = load_data(request.data, request.input), load_data(request.val, request.input)
    val = agree(data.classes, val)
    if len(data) < request.recipe.batch_size:
        raise TrainingError(
            f"the data has {len(data)} images, fewer than one batch of {request.recipe.batch_size}; lower --batch-size"
        )
    _check_workers(request.recipe, workers)
    torch.manual_seed(request.seed)
    config, network = assemble(request, data, val, device=device)
    if request.teacher:
        config = replace(config, teacher_source=Path(request.teacher).name)
    if started:
        _check_same(run.config, config, run.path)
    elif workers.is_leader:
        run.path.mkdir(parents=True, exist_ok=True)
        run.write_config(config)
    workers.wait()
    if not workers.is_leader:
        on_start, on_progress = (lambda *_: None), (lambda _: None)
    on_start(config, data, val)
    teacher = load_teacher(request.teacher, config) if request.teacher else None
    fit(
        run,
        network,
        data,
        val,
        teacher=teacher,
        workers=workers,
        device=device,
        compiled=compiled,
        on_progress=on_progress,
    )
    return run


def _check_workers(recipe: Recipe, workers: Workers) -> None:
    if recipe.batch_size % workers.count:
        raise TrainingError(
            f"--batch-size is {recipe.batch_size}, expected a multiple of the {workers.count} processes"
        )
    if workers.count > 1 and recipe.nuclear_weight:
        raise TrainingError("nuclear_weight needs whole batches, expected one process; start without torchrun")


def assemble(
    request: TrainRequest, data: ImageData, val: ImageData, *, device: str = "cpu"
) -> tuple[RunConfig, Network]:
    """Configuration of the requested run, and its network before the first step, on the CPU.

    `device` computes the calibration statistics of a new adaptive network.
    """
    init = open_run(request.init) if request.init else None
    if init and init.config.plan:
        return _continue(request, init, data, val)
    target_config, target = _target(request, init, len(data.classes))
    example = to_input(data.images[:2])
    check_logits(target, example, len(data.classes))
    if request.recipe.adaptive and request.substitute is None:
        raise ConfigError(
            f"recipe {request.recipe.name!r} needs --substitute, a network's name or a finished run: {request.init} "
            "is a plain run and has none"
        )
    config = RunConfig(
        recipe=request.recipe,
        target=target_config,
        substitute=None,
        plan=None,
        input=request.input,
        labels=data.classes,
        seed=request.seed,
        data=data.name,
        data_digest=data.digest,
        data_count=len(data),
        val=val.name,
        val_digest=val.digest,
        init_source=init.path.name if init else None,
        init_seconds=init.total_seconds if init else None,
    )
    if request.substitute is None:
        return config, target
    substitute_config, substitute = load_substitute(request.substitute, request.input)
    plan = request.plan or plan_pairs(target, substitute, example, form=request.form or "linear", rank=request.rank)
    network = apply_plan(target, substitute, plan)
    _calibrate(network, data, device)
    source = Path(request.substitute)
    return replace(
        config,
        substitute=substitute_config,
        plan=plan,
        substitute_source=source.name,
        substitute_seconds=_seconds(source) if source.is_dir() else None,
    ), network


def _target(request: TrainRequest, init: Run | None, classes: int) -> tuple[NetworkConfig, PixelNetwork]:
    if init is None:
        name = f"oudefend:{request.target}" if request.recipe.restored else str(request.target)
        config = _by_name(name, classes, request.input)
        return config, config.build(weights=True)
    config = replace(init.config.target, classes=classes)
    if request.target not in (None, config.name):
        raise ConfigError(f"--target is {request.target}, but {init.path} holds a {config.name}; leave --target out")
    if request.recipe.restored and not config.name.startswith("oudefend:"):
        raise ConfigError(
            f"{init.path} has no OUDefend block; start the recipe {request.recipe.name!r} with --target NAME"
        )
    target, trained = config.build(), init.network()
    load_state(target, trained.state_dict(), config.name, str(init.path))
    return config, target


def _continue(request: TrainRequest, init: Run, data: ImageData, val: ImageData) -> tuple[RunConfig, Network]:
    """Configuration and network for training a finished ABNN run further, with its own target, substitute and plan."""
    before = init.config
    if not request.recipe.adaptive:
        raise ConfigError(
            f"{init.path} is an ABNN run, but the recipe {request.recipe.name!r} trains plain networks"
            "; use 'abnn' or 'abnn-at'"
        )
    options = request.adaptive_options
    if options or request.target not in (None, before.target.name):
        raise ConfigError(
            f"{init.path} is an ABNN run with its own target, substitute and plan; "
            f"leave out {', '.join(options) or '--target'}"
        )
    if before.input != request.input:
        raise ConfigError(
            f"{init.path} was trained at {before.input.shape}, but the requested input is {request.input.shape}; "
            "use the same --size"
        )
    data = agree(before.labels, data)
    return replace(
        before,
        recipe=request.recipe,
        seed=request.seed,
        data=data.name,
        data_digest=data.digest,
        data_count=len(data),
        val=val.name,
        val_digest=val.digest,
        init_source=init.path.name,
        init_seconds=init.total_seconds,
    ), init.network().train()


def _by_name(name: str, classes: int, spec: InputSpec) -> NetworkConfig:
    """Config of a network given by name, with the normalisation that its published weights expect."""
    config = NetworkConfig(name=name, classes=classes)
    if spec.sampling:
        with torch.device("meta"):  # build without allocating weights
            if config.build().takes_clips:
                return replace(config, mean=KINETICS_MEAN, std=KINETICS_STD)
    return config


def load_substitute(source: str, spec: InputSpec) -> tuple[NetworkConfig, PixelNetwork]:
    """Config and trained network of a substitute: a finished run, a bundle (of an ABNN its substitute), or a name.

    A name should include weights, such as `resnet18@DEFAULT`.
    """
    if not Path(source).is_dir():
        config = _by_name(source, 1000, spec)
        return config, config.build(weights=True).eval()
    run = open_run(source)
    network = run.network()
    if isinstance(network, AdaptiveNetwork) and isinstance(run, BundledRun):
        assert run.config.substitute is not None  # noqa: S101
        assert run.config.plan is not None  # noqa: S101
        plain = run.config.substitute.build()
        plain.load_state_dict(without_taps(network.substitute, run.config.plan))
        return run.config.substitute, plain.eval()
    if isinstance(network, AdaptiveNetwork):
        raise ConfigError(
            f"{source} is an ABNN run, expected a plain network as the substitute, trained with the recipe 'standard'"
        )
    own = run.config.input
    size = None if (own.height, own.width) == (spec.height, spec.width) else (own.height, own.width)
    network.size = size
    return replace(run.config.target, size=size), network


def load_teacher(source: str, config: RunConfig) -> Network:
    """Network of a finished run or bundle; ConfigError unless it has the input and classes of `config`."""
    run = open_run(source)
    if run.config.input != config.input or run.config.labels != config.labels:
        raise ConfigError(
            f"the teacher {source} has a different input or different classes; "
            "train it with the recipe 'probe' on these classes first"
        )
    return run.network()


def _seconds(source: Path) -> float | None:
    """Seconds of a substitute's training: of a run its own, of an ABNN bundle those recorded for its substitute."""
    run = open_run(source)
    if isinstance(run, BundledRun):
        return run.config.substitute_seconds if run.config.plan else run.total_seconds
    return run.seconds


def _calibrate(network: AdaptiveNetwork, data: ImageData, device: str) -> None:
    images, size = data.spread(_CALIBRATION).images, data.chunk(256)
    network.to(device).calibrate(to_input(images[batch], device) for batch in batch_slices(len(images), size))
    network.to("cpu")


def _check_same(saved: RunConfig, requested: RunConfig, path: Path) -> None:
    before: dict[str, Any] = to_json(saved)
    after: dict[str, Any] = to_json(requested)
    for key, value in after.items():
        if value != before[key]:
            raise TrainingError(
                f"{path} was started with {key} = {before[key]!r}, but now {key} is {value!r}; "
                "use the same options or another --out"
            )
