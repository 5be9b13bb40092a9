"""Which BatchNorm of the target is driven by which of the substitute: a plan, proposed by relative depth."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from abnn_serve.bundle.manifest import Pair
from abnn_serve.errors import SurgeryError
from abnn_serve.lab.abnn.adaptive_norm import Form
from abnn_serve.lab.abnn.network import PixelNetwork


@dataclass(frozen=True, slots=True, kw_only=True)
class SurgeryPlan:
    """Every pair, in the order in which the target runs them, and the form of the adaptive layers. JSON by `codec`.

    `rank` bounds the rank of the linear form's maps; None leaves them full. `framewise` lets a substitute of images
    serve a target of clips: it sees each frame alone, and its statistics are taken over (T, H, W) all the same.
    """

    pairs: tuple[Pair, ...]
    form: Form = "linear"
    scope: Literal["sample"] = "sample"  # plans on disk name it
    rank: int | None = None
    framewise: bool = False

    def __post_init__(self) -> None:
        if self.rank is not None and (self.rank < 1 or self.form == "adain"):
            raise SurgeryError(
                f"rank is {self.rank} for the {self.form} form, expected at least 1, and a form with maps: not adain"
            )
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
    rank: int | None = None,
    framewise: bool = False,
) -> SurgeryPlan:
    """Pair every BatchNorm of the target with the substitute's at the same relative depth in running order.

    Args:
        target: pixel network; not changed.
        substitute: pixel network; not changed.
        form: of the adaptive layers.
        rank: bound of the maps' rank.
        framewise: a substitute of images may serve a target of clips, frame by frame.
        example: an input of the size that will be served, float (N, 3, [T,] H, W) in [0, 1]; both networks run on it.

    Raises:
        SurgeryError: a network without BatchNorm, one that never runs, a map with a single value for each channel, or
            for the adain form no layer of equal width; the message names both sides.
    """
    check_modalities(target, substitute, framewise=framewise)
    ours = _running_norms(target, "target", example)
    theirs = _running_norms(substitute, "substitute", example.transpose(1, 2).flatten(0, 1) if framewise else example)
    for norm in ours:
        if _values(norm) == 1 and form != "conditional":
            raise SurgeryError(
                f"target {norm.name!r} normalises one value for each channel of an input of "
                f"{tuple(example.shape[2:])}: its instance statistics would erase it; "
                "use a larger input, a target that shrinks less, or the conditional form"
            )
    pairs = []
    for index, norm in enumerate(ours):
        depth = index / max(len(ours) - 1, 1)
        usable = [i for i, other in enumerate(theirs) if form != "adain" or other.channels == norm.channels]
        if not usable:
            widths = sorted({other.channels for other in theirs})
            raise SurgeryError(
                f"target {norm.name!r} has {norm.channels} channels and no BatchNorm of the substitute has as many "
                f"(it has {widths}): the adain form needs equal widths; use the linear form"
            )
        other = theirs[min(usable, key=lambda i: abs(i / max(len(theirs) - 1, 1) - depth))]
        pairs.append(Pair(target=norm.name, substitute=other.name, channels=norm.channels, statistics=other.channels))
    return SurgeryPlan(pairs=tuple(pairs), form=form, rank=rank, framewise=framewise)


def check_modalities(target: PixelNetwork, substitute: PixelNetwork, *, framewise: bool) -> None:
    """SurgeryError unless both networks take clips or both images, or a plan says how to go between them."""
    ours, theirs = type(target.body).__name__, type(substitute.body).__name__
    if substitute.takes_clips and not target.takes_clips:
        raise SurgeryError(f"the substitute ({theirs}) takes clips and the target ({ours}) images; use one of images")
    if target.takes_clips and not substitute.takes_clips and not framewise:
        raise SurgeryError(
            f"the substitute ({theirs}) takes images and the target ({ours}) clips: say that this is meant with a plan "
            'that has "framewise": true (plan_pairs(..., framewise=True)), or use a substitute of clips'
        )
    if framewise and (substitute.takes_clips or not target.takes_clips):
        raise SurgeryError(
            f"a framewise plan is for a target of clips and a substitute of images, not {ours}, {theirs}"
        )


def _running_norms(network: PixelNetwork, side: str, example: Tensor) -> list[_Norm]:
    """The BatchNorms that run on `example`, in the order of their first run."""
    body = network.body
    norms = {module: name for name, module in body.named_modules() if isinstance(module, _BatchNorm)}
    if not norms:
        raise SurgeryError(
            f"the {side} ({type(body).__name__}) has no BatchNorm layer{_other_norms(body)}, "
            "expected a network with BatchNorm1d/2d/3d"
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


def _other_norms(body: nn.Module) -> str:
    kinds = sorted({type(m).__name__ for m in body.modules() if isinstance(m, (nn.LayerNorm, nn.GroupNorm))})
    return f" (it normalises with {', '.join(kinds)})" if kinds else ""
