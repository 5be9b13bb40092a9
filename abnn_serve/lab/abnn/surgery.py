"""Apply a plan: replace the target's BatchNorms with adaptive layers, and tap the substitute's."""

from __future__ import annotations

import copy
from typing import TypeVar

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from abnn_serve.errors import SurgeryError
from abnn_serve.lab.abnn.adaptive_norm import AdaptiveNorm, StatisticsTap
from abnn_serve.lab.abnn.network import AdaptiveNetwork, PixelNetwork
from abnn_serve.lab.abnn.plan import SurgeryPlan, check_modalities

_Module = TypeVar("_Module", bound=nn.Module)


def apply_plan(target: PixelNetwork, substitute: PixelNetwork, plan: SurgeryPlan) -> AdaptiveNetwork:
    """Join copies of both networks as `plan` says.

    The adaptive layers take over the BatchNorms' affine parameters (in the conditional form, their running statistics
    too), training flag, device and dtype.

    Raises:
        SurgeryError: one network takes images and the other clips, without a framewise plan; or the plan names a layer
            that does not exist, is not a BatchNorm or has another width; or a BatchNorm of the target is unpaired.
    """
    check_modalities(target, substitute, framewise=plan.framewise)
    target, substitute = _prepared(target), _prepared(substitute)
    norms = {name for name, module in target.body.named_modules() if isinstance(module, _BatchNorm)}
    if unpaired := sorted(norms - {pair.target for pair in plan.pairs}):
        raise SurgeryError(
            f"the plan does not pair the target's layer {unpaired[0]!r} ({len(unpaired)} BatchNorms have no pair)"
        )
    layers, taps = [], []
    tapped: dict[str, str] = {}
    for pair in plan.pairs:
        bn = _norm_at(target, "target", pair.target, pair.channels)
        if plan.form == "conditional" and bn.running_mean is None:
            raise SurgeryError(f"target {pair.target!r} keeps no running statistics; use the linear form")
        layer = AdaptiveNorm(pair.channels, pair.statistics, plan.form, plan.rank)
        layers.append(_replace(target, pair.target, bn, _initialised(layer, bn), keep=False))
        if pair.substitute not in tapped:
            source = _norm_at(substitute, "substitute", pair.substitute, pair.statistics)
            tapped[pair.substitute] = _replace(substitute, pair.substitute, source, StatisticsTap(), keep=True)
        taps.append(tapped[pair.substitute])
    return AdaptiveNetwork(target, substitute, layers, taps, framewise=plan.framewise)


def without_taps(substitute: PixelNetwork, plan: SurgeryPlan) -> dict[str, Tensor]:
    """The state of a substitute that `apply_plan` tapped, under the names that it has before."""
    tapped = {f"body.{pair.substitute}.0.": f"body.{pair.substitute}." for pair in plan.pairs}
    state = {}
    for name, value in substitute.state_dict().items():
        prefix = next((prefix for prefix in tapped if name.startswith(prefix)), None)
        state[name if prefix is None else tapped[prefix] + name.removeprefix(prefix)] = value
    return state


def _prepared(network: PixelNetwork) -> PixelNetwork:
    """A copy without SyncBatchNorm and in-place operations, which would overwrite a tap's input before backward."""
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
    return _initialised(plain, norm)


def _initialised(module: _Module, norm: _BatchNorm) -> _Module:
    tensor = norm.weight if norm.weight is not None else norm.running_mean
    if tensor is not None:
        module.to(device=tensor.device, dtype=tensor.dtype)
    if isinstance(module, AdaptiveNorm) and module.form != "adain" and norm.affine:
        module.gamma.data.copy_(norm.weight.data)
        module.beta.data.copy_(norm.bias.data)
    if isinstance(module, AdaptiveNorm) and module.norm is not None:
        module.norm.eps, module.norm.momentum = norm.eps, norm.momentum
        module.norm.load_state_dict(dict(norm.named_buffers()))
    return module.train(norm.training)


def _norm_at(network: PixelNetwork, side: str, name: str, channels: int) -> _BatchNorm:
    try:
        module = network.body.get_submodule(name)
    except AttributeError:
        raise SurgeryError(
            f"the plan names {side} layer {name!r}, which {type(network.body).__name__} does not have"
        ) from None
    if not isinstance(module, _BatchNorm):
        raise SurgeryError(f"the plan names {side} layer {name!r}, a {type(module).__name__}, expected a BatchNorm")
    if module.num_features != channels:
        raise SurgeryError(f"{side} {name!r} has {module.num_features} channels, the plan says {channels}")
    return module


def _replace(network: PixelNetwork, name: str, norm: _BatchNorm, new: nn.Module, *, keep: bool) -> str:
    """Replace `norm` with `new`, or with `keep` put `new` after it, wherever it is shared; return the name of `new`."""
    tail = _activation_tail(norm)
    first = [_plain_norm(norm, _base(norm)) if tail else norm] if keep else []
    block: nn.Module = new if not first and not tail else nn.Sequential(*first, new, *tail)
    _swap(network, norm, block)
    return name if block is new else f"{name}.{len(first)}"


def _swap(root: nn.Module, old: nn.Module, new: nn.Module) -> None:
    """Replace `old` under each of its names; named_children() lists a shared module only once."""
    for parent in list(root.modules()):
        for name, child in list(parent._modules.items()):  # noqa: SLF001
            if child is old:
                setattr(parent, name, new)


def _base(norm: _BatchNorm) -> type[_BatchNorm]:
    return next(kind for kind in (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d) if isinstance(norm, kind))


def _activation_tail(norm: _BatchNorm) -> list[nn.Module]:
    """The modules that a BatchNorm subclass runs after normalising, such as `drop` and `act` of timm's BatchNormAct."""
    if type(norm).forward in {_BatchNorm.forward, _base(norm).forward}:
        return []
    tail = [getattr(norm, part, None) for part in ("drop", "act")]
    if not all(isinstance(part, nn.Module) for part in tail):
        raise SurgeryError(
            f"{type(norm).__name__} overrides forward in a way that surgery does not support; use a plain BatchNorm"
        )
    return [part for part in tail if isinstance(part, nn.Module)]
