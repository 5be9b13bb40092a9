"""Surgery plans: which BatchNorm of the substitute drives which of the target, proposed by relative depth."""

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

DEFAULT_RANK = 64
_WIDE = 512  # of 2 min(C, K): above it, a full map of 2C x 2K numbers takes over 1 MB


@dataclass(frozen=True, slots=True, kw_only=True)
class SurgeryPlan:
    """The pairs of layers, and the adaptive layers that replace the target's. `abnn train --plan` reads it as JSON.

    Attributes:
        pairs: one for every BatchNorm of the target, in the order in which they run.
        form: of the adaptive layers; see `AdaptiveNorm`.
        scope: statistics are those of a single sample.
        rank: largest rank of the maps of the linear and conditional forms; None means full maps.
        framewise: the target takes clips and the substitute images. The substitute then sees each frame alone, and its
            statistics are taken over (T, H, W).

    Raises:
        SurgeryError: no pairs, a target layer in two pairs, a rank below 1 or with the adain form, or an adain pair of
            unequal widths.
    """

    pairs: tuple[Pair, ...]
    form: Form = "linear"
    scope: Literal["sample"] = "sample"
    rank: int | None = None
    framewise: bool = False

    def __post_init__(self) -> None:
        if self.rank is not None and (self.rank < 1 or self.form == "adain"):
            raise SurgeryError(
                f"rank is {self.rank} for the {self.form} form, expected at least 1 with the linear or conditional form"
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
        lines = ["  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in [head, *rows]]
        if self.form != "adain":
            lines.append(f"adaptive maps: {f'rank {self.rank}' if self.rank else 'full rank'}")
        return "\n".join(lines)


@dataclass(frozen=True, slots=True)
class _Norm:
    """A BatchNorm that ran: its name, its width and the spatial size of its input."""

    name: str
    channels: int
    spatial: torch.Size


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
        example: an input of the size that will be served, float (N, 3, [T,] H, W) in [0, 1]; both networks run on it.
        form: of the adaptive layers.
        rank: largest rank of the maps; 0 means full maps. By default 64 if any pair has more than 256 channels on both
            sides, else full: maps of such width would weigh as much as the convolutions.
        framewise: the target takes clips, and the substitute images, frame by frame.

    Raises:
        SurgeryError: a network without BatchNorm, a target's BatchNorm that does not run or that normalises a single
            value for each channel, or for the adain form no layer of equal width; the message names both sides.
    """
    check_modalities(target, substitute, framewise=framewise)
    norms = _running_norms(target, "target", example)
    sources = _running_norms(substitute, "substitute", example.transpose(1, 2).flatten(0, 1) if framewise else example)
    for norm in norms:
        if norm.spatial.numel() == 1 and form != "conditional":
            raise SurgeryError(
                f"target {norm.name!r} normalises one value for each channel of an input of "
                f"{tuple(example.shape[2:])}: its instance statistics would erase it; "
                "use a larger input, a target that shrinks less, or the conditional form"
            )
    pairs = []
    for index, norm in enumerate(norms):
        depth = index / max(len(norms) - 1, 1)
        usable = [i for i, source in enumerate(sources) if form != "adain" or source.channels == norm.channels]
        if not usable:
            widths = sorted({source.channels for source in sources})
            raise SurgeryError(
                f"target {norm.name!r} has {norm.channels} channels and no BatchNorm of the substitute has as many "
                f"(it has {widths}): the adain form needs equal widths; use the linear form"
            )
        source = sources[min(usable, key=lambda i: abs(i / max(len(sources) - 1, 1) - depth))]
        pairs.append(Pair(target=norm.name, substitute=source.name, channels=norm.channels, statistics=source.channels))
    if rank is None and form != "adain" and any(2 * min(pair.channels, pair.statistics) > _WIDE for pair in pairs):
        rank = DEFAULT_RANK
    return SurgeryPlan(pairs=tuple(pairs), form=form, rank=rank or None, framewise=framewise)


def check_modalities(target: PixelNetwork, substitute: PixelNetwork, *, framewise: bool) -> None:
    """SurgeryError unless both networks take clips or both images, or `framewise` with clips and images."""
    body, source = type(target.body).__name__, type(substitute.body).__name__
    if substitute.takes_clips and not target.takes_clips:
        raise SurgeryError(
            f"the substitute ({source}) takes clips and the target ({body}) images; use a substitute that takes images"
        )
    if target.takes_clips and not substitute.takes_clips and not framewise:
        raise SurgeryError(
            f"the substitute ({source}) takes images and the target ({body}) clips; use a substitute that takes clips, "
            'or a plan with "framewise": true (plan_pairs(..., framewise=True)) to show it each frame alone'
        )
    if framewise and (substitute.takes_clips or not target.takes_clips):
        raise SurgeryError(
            "a framewise plan needs a target that takes clips and a substitute that takes images; "
            f"{body} and {source} are not"
        )


def _running_norms(network: PixelNetwork, side: str, example: Tensor) -> list[_Norm]:
    """The BatchNorms that run on `example`, in running order."""
    body = network.body
    norms = {module: name for name, module in body.named_modules() if isinstance(module, _BatchNorm)}
    if not norms:
        raise SurgeryError(
            f"the {side} ({type(body).__name__}) has no BatchNorm layer{_other_norms(body)}, "
            "expected a network with BatchNorm1d/2d/3d"
        )
    records: dict[_BatchNorm, _Norm] = {}

    def record(module: _BatchNorm, inputs: tuple[Tensor, ...]) -> None:
        (x,) = inputs
        if x.dim() < 3:
            raise SurgeryError(
                f"{side} {norms[module]!r} normalises an input of shape {tuple(x.shape)}, which has no spatial axes"
            )
        records.setdefault(module, _Norm(norms[module], x.shape[1], x.shape[2:]))

    handles = [module.register_forward_pre_hook(record) for module in norms]
    modes = {module: module.training for module in network.modules()}
    try:
        with torch.no_grad():
            network.eval()(example)
    finally:
        for handle in handles:
            handle.remove()
        for module, training in modes.items():
            module.training = training
    idle = [name for module, name in norms.items() if module not in records]
    if idle and side == "target":
        raise SurgeryError(
            f"target {idle[0]!r} does not run in eval mode, so it cannot be paired; remove it from the network"
        )
    return list(records.values())


def _other_norms(body: nn.Module) -> str:
    kinds = sorted({type(m).__name__ for m in body.modules() if isinstance(m, (nn.LayerNorm, nn.GroupNorm))})
    return f" (it normalises with {', '.join(kinds)})" if kinds else ""
