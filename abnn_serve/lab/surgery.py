"""Joining two networks: which BatchNorm of the target is driven by which of the substitute, and the operation."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from abnn_serve.bundle.manifest import Pair
from abnn_serve.errors import SurgeryError
from abnn_serve.lab.adaptive_norm import AdaptiveNorm, Form, StatisticsTap, StatsScope
from abnn_serve.lab.network import AdaptiveNetwork, PixelNetwork

_Module = TypeVar("_Module", bound=nn.Module)


@dataclass(frozen=True, slots=True, kw_only=True)
class SurgeryPlan:
    """Every pair, in the order in which the target runs them, and the form of the adaptive layers. JSON by `codec`."""

    pairs: tuple[Pair, ...]
    form: Form = "linear"
    scope: StatsScope = "sample"

    def __post_init__(self) -> None:
        if not self.pairs:
            raise SurgeryError("the plan has no pairs, expected at least one")
        names = [pair.target for pair in self.pairs]
        if len(set(names)) != len(names):
            raise SurgeryError(f"the plan names {max(names, key=names.count)!r} of the target more than once")
        if self.form == "adain":
            for pair in self.pairs:
                if pair.channels != pair.statistics:
                    raise SurgeryError(
                        f"target {pair.target!r} has {pair.channels} channels and substitute {pair.substitute!r} has "
                        f"{pair.statistics}: the adain form needs equal widths; use the linear form or another plan"
                    )

    def __str__(self) -> str:
        rows = [(p.target, str(p.channels), p.substitute, str(p.statistics)) for p in self.pairs]
        head = ("target", "C", "substitute", "K")
        widths = [max(len(row[i]) for row in [head, *rows]) for i in range(4)]
        return "\n".join(
            "  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in [head, *rows]
        )


@dataclass(frozen=True, slots=True)
class _Norm:
    """A BatchNorm as it was seen running: its name, its width and the spatial size of what it normalises."""

    name: str
    channels: int
    spatial: tuple[int, ...]


def plan_pairs(
    target: PixelNetwork,
    substitute: PixelNetwork,
    example: Tensor,
    *,
    form: Form = "linear",
    scope: StatsScope = "sample",
) -> SurgeryPlan:
    """Pair every BatchNorm of the target with the substitute's at the same relative depth in running order.

    Args:
        target: pixel network; not changed.
        substitute: pixel network; not changed.
        form: of the adaptive layers.
        scope: of the statistics.
        example: an input of the size that will be served, float (N, 3, H, W) in [0, 1]; both networks run on it once.

    Raises:
        SurgeryError: a network without BatchNorm, one that never runs, a map with a single value for each channel, or
            for the adain form no layer of equal width; the message names both sides.
    """
    ours = _running_norms(target, "target", example)
    theirs = _running_norms(substitute, "substitute", example)
    for norm in ours:
        if _values(norm) == 1:
            raise SurgeryError(
                f"target {norm.name!r} normalises one value for each channel of an input of "
                f"{tuple(example.shape[2:])}: its instance statistics would erase it; "
                "use a larger input or a target that shrinks less"
            )
    pairs = []
    for index, norm in enumerate(ours):
        depth = index / max(len(ours) - 1, 1)
        usable = [i for i, other in enumerate(theirs) if form == "linear" or other.channels == norm.channels]
        if not usable:
            widths = sorted({other.channels for other in theirs})
            raise SurgeryError(
                f"target {norm.name!r} has {norm.channels} channels and no BatchNorm of the substitute has as many "
                f"(it has {widths}): the adain form needs equal widths; use the linear form"
            )
        other = theirs[min(usable, key=lambda i: abs(i / max(len(theirs) - 1, 1) - depth))]
        pairs.append(Pair(target=norm.name, substitute=other.name, channels=norm.channels, statistics=other.channels))
    return SurgeryPlan(pairs=tuple(pairs), form=form, scope=scope)


def apply_plan(target: PixelNetwork, substitute: PixelNetwork, plan: SurgeryPlan) -> AdaptiveNetwork:
    """Carry out a plan on copies of both networks.

    The adaptive layers start from the replaced BatchNorms' affine; training flag, device and dtype are kept.

    Raises:
        SurgeryError: the plan names a layer that is not there, is not a BatchNorm, has another width, or leaves a
            BatchNorm of the target unpaired.
    """
    target, substitute = _prepared(target), _prepared(substitute)
    norms = {name for name, module in target.body.named_modules() if isinstance(module, _BatchNorm)}
    if left := sorted(norms - {pair.target for pair in plan.pairs}):
        raise SurgeryError(
            f"the plan pairs target layer {left[0]!r} with nothing ({len(left)} BatchNorms are left over)"
        )
    layers, taps = [], []
    tapped: dict[str, str] = {}
    for pair in plan.pairs:
        bn = _norm_at(target, "target", pair.target, pair.channels)
        layer = AdaptiveNorm(pair.channels, pair.statistics, plan.form, plan.scope)
        layers.append(_replace(target, pair.target, bn, _like(layer, bn), keep=False))
        if pair.substitute not in tapped:
            source = _norm_at(substitute, "substitute", pair.substitute, pair.statistics)
            tapped[pair.substitute] = _replace(
                substitute, pair.substitute, source, StatisticsTap(plan.scope), keep=True
            )
        taps.append(tapped[pair.substitute])
    return AdaptiveNetwork(target, substitute, layers, taps)


def _prepared(network: PixelNetwork) -> PixelNetwork:
    """A copy with SyncBatchNorm made plain and nothing done in place: a tap's input must survive until backward."""
    network = copy.deepcopy(network)
    three_d = any(isinstance(module, nn.Conv3d) for module in network.modules())
    for module in list(network.modules()):
        if isinstance(module, nn.SyncBatchNorm):
            _swap(network, module, _plain_norm(module, nn.BatchNorm3d if three_d else nn.BatchNorm2d))
        if getattr(module, "inplace", False) is True:
            module.inplace = False  # type: ignore[assignment]
    return network


def _plain_norm(norm: _BatchNorm, kind: type[_BatchNorm]) -> _BatchNorm:
    plain = kind(norm.num_features, norm.eps, norm.momentum, norm.affine, norm.track_running_stats)
    plain.load_state_dict(norm.state_dict())
    return _like(plain, norm)


def _like(module: _Module, norm: _BatchNorm) -> _Module:
    tensor = norm.weight if norm.weight is not None else norm.running_mean
    if tensor is not None:
        module.to(device=tensor.device, dtype=tensor.dtype)
    if isinstance(module, AdaptiveNorm) and module.form == "linear" and norm.affine:
        module.gamma.data.copy_(norm.weight.data)
        module.beta.data.copy_(norm.bias.data)
    return module.train(norm.training)


def _running_norms(network: PixelNetwork, side: str, example: Tensor) -> list[_Norm]:
    """The BatchNorms that run on `example`, in the order of their first run."""
    body = network.body
    norms = {module: name for name, module in body.named_modules() if isinstance(module, _BatchNorm)}
    if not norms:
        raise SurgeryError(
            f"the {side} ({type(body).__name__}) has no BatchNorm layer, expected a network with BatchNorm1d/2d/3d"
        )
    seen: dict[_BatchNorm, _Norm] = {}

    def note(module: _BatchNorm, inputs: tuple[Tensor, ...]) -> None:
        (x,) = inputs
        if x.dim() < 3:
            raise SurgeryError(
                f"{side} {norms[module]!r} normalises {tuple(x.shape)}: no spatial axes to take statistics over"
            )
        seen.setdefault(module, _Norm(norms[module], x.shape[1], tuple(x.shape[2:])))

    handles = [module.register_forward_pre_hook(note) for module in norms]
    modes = {module: module.training for module in network.modules()}
    try:
        with torch.no_grad():
            network.eval()(example)
    finally:
        for handle in handles:
            handle.remove()
        for module, training in modes.items():
            module.training = training
    idle = [name for module, name in norms.items() if module not in seen]
    if idle and side == "target":
        raise SurgeryError(
            f"target {idle[0]!r} never runs in eval mode, so it cannot be paired; remove it from the network"
        )
    return list(seen.values())


def _values(norm: _Norm) -> int:
    return int(torch.Size(norm.spatial).numel())


def _norm_at(network: PixelNetwork, side: str, name: str, channels: int) -> _BatchNorm:
    try:
        module = network.body.get_submodule(name)
    except AttributeError:
        raise SurgeryError(
            f"the plan names {side} layer {name!r}, which is not in {type(network.body).__name__}"
        ) from None
    if not isinstance(module, _BatchNorm):
        raise SurgeryError(f"the plan names {side} layer {name!r}, a {type(module).__name__}, expected a BatchNorm")
    if module.num_features != channels:
        raise SurgeryError(f"{side} {name!r} has {module.num_features} channels, the plan says {channels}")
    return module


def _replace(network: PixelNetwork, name: str, norm: _BatchNorm, new: nn.Module, *, keep: bool) -> str:
    """Put `new` in the place of `norm` (or, with `keep`, right behind it), wherever it is shared; give its name."""
    tail = _activation_tail(norm)
    first = [_plain_norm(norm, _base(norm)) if tail else norm] if keep else []
    block: nn.Module = new if not first and not tail else nn.Sequential(*first, new, *tail)
    _swap(network, norm, block)
    return name if block is new else f"{name}.{len(first)}"


def _swap(root: nn.Module, old: nn.Module, new: nn.Module) -> None:
    """Put `new` wherever `old` stands, under each of its names: named_children() shows a shared module once."""
    for parent in list(root.modules()):
        for name, child in list(parent._modules.items()):  # noqa: SLF001
            if child is old:
                setattr(parent, name, new)


def _base(norm: _BatchNorm) -> type[_BatchNorm]:
    return next(kind for kind in (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d) if isinstance(norm, kind))


def _activation_tail(norm: _BatchNorm) -> list[nn.Module]:
    """What a BatchNorm subclass runs after normalising: timm's BatchNormAct keeps `drop` and `act` inside."""
    if type(norm).forward in {_BatchNorm.forward, _base(norm).forward}:
        return []
    tail = [getattr(norm, part, None) for part in ("drop", "act")]
    if not all(isinstance(part, nn.Module) for part in tail):
        raise SurgeryError(
            f"{type(norm).__name__} has a forward of its own that surgery does not know; use a plain BatchNorm"
        )
    return [part for part in tail if isinstance(part, nn.Module)]
