"""From names to a run that can be trained: data read, networks joined, the configuration on disk."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args

import torch

from abnn_serve.codec import to_json
from abnn_serve.errors import ConfigError, TrainingError
from abnn_serve.lab.adaptive_norm import Form, StatsScope
from abnn_serve.lab.batches import to_input
from abnn_serve.lab.data import ImageData, agree, load_data
from abnn_serve.lab.distributed import Workers, join_workers
from abnn_serve.lab.network import KINETICS_MEAN, KINETICS_STD, AdaptiveNetwork, PixelNetwork, check_logits
from abnn_serve.lab.pairing import SurgeryPlan, plan_pairs
from abnn_serve.lab.recipes import Recipe
from abnn_serve.lab.run import Network, NetworkConfig, Run, RunConfig
from abnn_serve.lab.surgery import apply_plan, without_taps
from abnn_serve.lab.train import Progress, fit
from abnn_serve.lab.weights_file import BundledRun, open_run
from abnn_serve.lab.zoo import load_state
from abnn_serve.spec import InputSpec

_CALIBRATION = 2048  # images from which the statistics are standardised


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainRequest:
    """What a user asks to be trained; names are those of `zoo.build_network` and `data.load_data`.

    Attributes:
        form, rank: of the adaptive layers, `linear` and unbounded unless given; a plan or an ABNN run has its own.
        target: the network's name; None where it is that of `init`.
        teacher: a finished run or a bundle whose predictions the network learns from, by the recipe's `teacher_weight`.
        init: a finished run to start from, or a bundle that keeps its run's weights. An ABNN run brings its substitute
            and its plan with it; a plain one gives the target its weights, all but the head where the classes are
            others.
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
    scope: StatsScope = "sample"
    rank: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if self.form not in (None, *get_args(Form)):
            raise ConfigError(f"form is {self.form!r}, expected one of {', '.join(get_args(Form))}")
        if self.recipe.fine_tunes and self.init is None:
            raise ConfigError(f"recipe {self.recipe.name!r} needs --init: the finished run that it starts from")
        if self.target is None and self.init is None:
            raise ConfigError("no network to train; give --target NAME, or --init RUN to start from a finished run")
        if self.recipe.adaptive and self.substitute is None and self.init is None:
            raise ConfigError(f"recipe {self.recipe.name!r} needs --substitute: a network's name or a finished run")
        if not self.recipe.adaptive and (given := self.adaptive_options):
            raise ConfigError(f"recipe {self.recipe.name!r} takes no {given[0]}; did you mean 'abnn'?")
        if bool(self.recipe.teacher_weight) != bool(self.teacher):
            raise ConfigError("a teacher needs both --teacher and a weight of its term, such as --set teacher_weight=1")
        if self.plan and (self.form or self.rank):
            raise ConfigError("--plan says which form and rank the adaptive layers have; leave --form and --rank out")

    @property
    def adaptive_options(self) -> list[str]:
        """Those given that say what the adaptive layers are, as the command line spells them."""
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
    """Train what `request` asks for into the directory `out`; under `torchrun`, in all of its processes.

    Each process learns from its share of every batch, by gloo on CPUs and nccl on GPUs, and ends with the weights that
    one process would have found, up to rounding.

    Raises:
        TrainingError: `out` holds a run and `resume` is off, or holds another run than the one asked for.
        DataError, NetworkError, SurgeryError: as the parts raise them.
    """
    run = Run(out)
    workers, device = join_workers(device)
    started = run.exists
    workers.wait()
    if started and not resume:
        raise TrainingError(f"{run.path} already holds a run; add --resume to go on with it, or choose another --out")
    data, val = load_data(request.data, request.input), load_data(request.val, request.input)
    val = agree(data.classes, val)
    if len(data) < request.recipe.batch_size:
        raise TrainingError(
            f"{len(data)} images are fewer than one batch of {request.recipe.batch_size}; lower --batch-size"
        )
    _check_workers(request.recipe, workers)
    torch.manual_seed(request.seed)
    config, network = assemble(request, data, val)
    if request.teacher:
        config = replace(config, teacher_source=Path(request.teacher).name)
    if started:
        _same(run.config, config, run.path)
    elif workers.leads:
        run.path.mkdir(parents=True, exist_ok=True)
        run.write_config(config)
    workers.wait()
    if not workers.leads:
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
        raise TrainingError(f"--batch-size {recipe.batch_size} does not divide into {workers.count} processes")
    if workers.count > 1 and recipe.nuclear_weight:
        raise TrainingError("a nuclear norm is taken over a whole batch; train with nuclear_weight in one process")


def assemble(request: TrainRequest, data: ImageData, val: ImageData) -> tuple[RunConfig, Network]:
    """The configuration that a request makes on its data, and the network before its first step."""
    init = open_run(request.init) if request.init else None
    if init and init.config.plan:
        return _go_on(request, init, data, val)
    target_config, target = _target(request, init, len(data.classes))
    example = to_input(data.images[:2])
    check_logits(target, example, len(data.classes))
    if request.recipe.adaptive and request.substitute is None:
        raise ConfigError(
            f"recipe {request.recipe.name!r} needs --substitute, a network's name or a finished run: {request.init} "
            "is no ABNN run that brings its own"
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
    plan = request.plan or plan_pairs(
        target, substitute, example, form=request.form or "linear", scope=request.scope, rank=request.rank
    )
    network = apply_plan(target, substitute, plan)
    _calibrate(network, data)
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


def _go_on(request: TrainRequest, init: Run, data: ImageData, val: ImageData) -> tuple[RunConfig, Network]:
    """A finished ABNN run, to be trained on: target, substitute and plan are its own."""
    before = init.config
    if not request.recipe.adaptive:
        raise ConfigError(f"{init.path} is an ABNN run, the recipe {request.recipe.name!r} is for plain networks")
    given = request.adaptive_options
    if given or request.target not in (None, before.target.name):
        raise ConfigError(f"{init.path} is an ABNN run and brings its own; leave out {', '.join(given) or '--target'}")
    if before.input != request.input:
        raise ConfigError(f"{init.path} was trained at {before.input.shape}, now the size is {request.input.shape}")
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
    """A network that is not a run's, with the normalisation that goes with the weights there are for it."""
    config = NetworkConfig(name=name, classes=classes)
    if spec.sampling:
        with torch.device("meta"):  # it is only looked at
            if config.build().takes_clips:
                return replace(config, mean=KINETICS_MEAN, std=KINETICS_STD)
    return config


def load_substitute(source: str, spec: InputSpec) -> tuple[NetworkConfig, PixelNetwork]:
    """A substitute with its weights: a finished run's directory, or a name, best with weights (`resnet18@DEFAULT`).

    A bundle of an ABNN gives the substitute that is part of it.
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
            f"{source} is an ABNN run; a substitute is a plain network, trained with the recipe 'standard'"
        )
    own = run.config.input
    size = None if (own.height, own.width) == (spec.height, spec.width) else (own.height, own.width)
    network.size = size
    return replace(run.config.target, size=size), network


def load_teacher(source: str, config: RunConfig) -> Network:
    """A finished run's or a bundle's network, to learn from; ConfigError unless it has the same input and classes."""
    run = open_run(source)
    if run.config.input != config.input or run.config.labels != config.labels:
        raise ConfigError(
            f"the teacher {source} has another input or other classes; "
            "the recipe 'probe' gives a network a head for these classes"
        )
    return run.network()


def _seconds(source: Path) -> float | None:
    """Of a substitute's training: a run's own, or what a bundle's run says of its substitute."""
    run = open_run(source)
    if isinstance(run, BundledRun):
        return run.config.substitute_seconds if run.config.plan else run.total_seconds
    return run.seconds


def _calibrate(network: AdaptiveNetwork, data: ImageData) -> None:
    images, size = data.spread(_CALIBRATION).images, data.chunk(256)
    network.calibrate(to_input(images[start : start + size]) for start in range(0, len(images), size))


def _same(found: RunConfig, asked: RunConfig, path: Path) -> None:
    ours: dict[str, Any] = to_json(asked)
    theirs: dict[str, Any] = to_json(found)
    for key, value in ours.items():
        if value != theirs[key]:
            raise TrainingError(
                f"{path} was started with {key} = {theirs[key]!r}, now it is {value!r}; "
                "use the same options or another --out"
            )
