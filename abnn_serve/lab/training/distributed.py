"""Training in several processes under `torchrun`, each on its share of every batch, with equal weights in all."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, distributed, nn
from torch.distributed.nn.functional import all_reduce
from torch.nn.modules.batchnorm import _BatchNorm


@dataclass(frozen=True, slots=True)
class Workers:
    """The processes that train together: `rank` of this one among `count`."""

    rank: int = 0
    count: int = 1

    @property
    def is_leader(self) -> bool:
        """Whether this process writes the run."""
        return self.rank == 0

    def share(self, batch: Tensor) -> Tensor:
        """This process's share of a batch, (N, ...) to (N / count, ...)."""
        return batch.chunk(self.count)[self.rank]

    def average(self, tensors: Iterable[Tensor]) -> None:
        """Replace each tensor by its mean over the processes, in place."""
        for tensor in tensors if self.count > 1 else ():
            distributed.all_reduce(tensor)
            tensor.div_(self.count)

    def wait(self) -> None:
        """Block until every process has called this."""
        if self.count > 1:
            distributed.barrier()


ALONE = Workers()


def join_workers(device: str) -> tuple[Workers, str]:
    """Join the processes that `torchrun` started, with nccl on GPUs and gloo on CPUs.

    Returns:
        the processes, and the device of this one.
    """
    count = int(os.environ.get("WORLD_SIZE", "1"))
    if count == 1:
        return ALONE, device
    if device == "cuda":
        device = f"cuda:{os.environ.get('LOCAL_RANK', '0')}"
        torch.cuda.set_device(device)
    if not distributed.is_initialized():
        distributed.init_process_group("nccl" if device.startswith("cuda") else "gloo")
    return Workers(distributed.get_rank(), count), device


def synchronise_norms(network: nn.Module, workers: Workers) -> None:
    """Make every BatchNorm of `network` use the statistics of the whole batch while training, in place.

    torch.nn.SyncBatchNorm supports GPUs only.
    """
    if workers.count == 1:
        return
    for module in network.modules():
        if isinstance(module, _BatchNorm) and module.track_running_stats:
            module.forward = _Synchronised(module, workers)  # type: ignore[method-assign, assignment]


class _Synchronised:
    """Forward pass of a BatchNorm over the equal shares of all processes."""

    def __init__(self, norm: _BatchNorm, workers: Workers) -> None:
        self.norm = norm
        self.workers = workers

    def __call__(self, x: Tensor) -> Tensor:
        norm = self.norm
        if not norm.training:
            return nn.functional.batch_norm(
                x, norm.running_mean, norm.running_var, norm.weight, norm.bias, eps=norm.eps
            )
        axes = [0, *range(2, x.dim())]
        wide = x.float()
        own = torch.stack([wide.mean(dim=axes), wide.square().mean(dim=axes)])
        sums: Tensor = all_reduce(own)  # type: ignore[no-untyped-call]
        mean, square = (sums / self.workers.count).unbind()
        variance = square - mean.square()
        self._update_running_statistics(mean.detach(), variance.detach(), x.numel() // x.shape[1] * self.workers.count)
        shape = (1, -1, *[1] * (x.dim() - 2))
        normal: Tensor = (wide - mean.view(shape)) * (variance + norm.eps).rsqrt().view(shape)
        if norm.affine:
            normal = normal * norm.weight.view(shape) + norm.bias.view(shape)
        return normal.to(x.dtype)

    def _update_running_statistics(self, mean: Tensor, variance: Tensor, count: int) -> None:
        norm = self.norm
        assert norm.num_batches_tracked is not None  # noqa: S101
        norm.num_batches_tracked.add_(1)
        share = 1 / float(norm.num_batches_tracked) if norm.momentum is None else norm.momentum
        norm.running_mean.lerp_(mean, share)  # type: ignore[union-attr]
        norm.running_var.lerp_(variance * count / (count - 1), share)  # type: ignore[union-attr]
