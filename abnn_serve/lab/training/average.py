"""Average the weights of finished runs of one network (Wortsman et al. 2022, "Model soups").

The average is often better than each run if the runs share a loss basin, for example because one started from another.
BatchNorm statistics are recomputed, because averaged ones are not those of the averaged weights (Izmailov et al. 2018).
They can be averaged instead: recomputed ones lack the adversarial examples that adversarial training saw.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch.nn.modules.batchnorm import _BatchNorm

from abnn_serve.arrays import batch_slices
from abnn_serve.errors import TrainingError
from abnn_serve.lab.abnn.network import AdaptiveNetwork, Network
from abnn_serve.lab.data.dataset import ImageData
from abnn_serve.lab.data.load import agree
from abnn_serve.lab.device import describe_device
from abnn_serve.lab.training.batches import to_input
from abnn_serve.lab.training.run import Run
from abnn_serve.lab.training.validation import evaluate_clean
from abnn_serve.lab.training.weights_file import open_run, without_folders

_IMAGES = 8192  # for recomputing BatchNorm statistics
_BATCH = 512


def average_runs(sources: Sequence[Path], out: Path, data: ImageData, val: ImageData, *, recompute: bool = True) -> Run:
    """Write a run whose weights are the mean of those of `sources`.

    Args:
        sources: at least 2 finished runs, or bundles with weights, of the same network; one listed twice counts twice.
            The new run records the last one's recipe, and as its cost that of the most expensive one, which includes
            the runs before it.
        out: directory of the new run.
        data: training data, for BatchNorm statistics.
        val: validation data.
        recompute: recompute BatchNorm statistics on clean images; otherwise they are averaged, too.

    Raises:
        TrainingError: fewer than two runs, runs of different networks, or `out` already holds a run.
    """
    runs = [open_run(source) for source in sources]
    if len(runs) < 2:
        raise TrainingError(f"{len(runs)} run given, expected at least 2")
    configs = [run.config for run in runs]
    named = [without_folders(config) for config in configs]  # a bundle keeps no folders
    for run, config in zip(runs, named, strict=True):
        if config.mixture is not None:
            raise TrainingError(f"{run.path} is a mixture; average the runs that it was made of")
        for part in ("target", "substitute", "plan", "input", "labels"):
            if getattr(config, part) != getattr(named[0], part):
                raise TrainingError(f"{run.path} and {runs[0].path} hold different networks ({part} differs)")
    result = Run(out)
    if result.exists:
        raise TrainingError(f"{out} already holds a run; choose another --out")
    started, network = time.perf_counter(), configs[-1].build()
    states = [run.network().state_dict() for run in runs]
    network.load_state_dict({name: _mean([state[name] for state in states]) for name in states[0]})
    if recompute:
        _recompute_statistics(network, agree(configs[-1].labels, data).spread(_IMAGES))
    network.eval()
    seconds = time.perf_counter() - started
    accuracy, loss = evaluate_clean(network, agree(configs[-1].labels, val))
    out.mkdir(parents=True, exist_ok=True)
    shares = Counter(run.path.name for run in runs)
    origin = " + ".join(name if count == 1 else f"{count} x {name}" for name, count in shares.items())
    result.write_config(replace(configs[-1], init_source=origin, init_seconds=max(run.total_seconds for run in runs)))
    result.write_metrics(
        [
            {
                "epoch": 0,
                "seconds": seconds,
                "val_loss": loss,
                "val_accuracy": accuracy,
                "hardware": describe_device("cpu"),
            }
        ]
    )
    result.write_tensors("weights.pt", network.state_dict())
    return result


def _mean(values: list[torch.Tensor]) -> torch.Tensor:
    return torch.stack(values).mean(dim=0) if values[0].is_floating_point() else values[-1]


@torch.inference_mode()
def _recompute_statistics(network: Network, data: ImageData) -> None:
    """Recompute the running statistics of the target's BatchNorms on clean images."""
    body = network.target if isinstance(network, AdaptiveNetwork) else network
    norms = [module for module in body.modules() if isinstance(module, _BatchNorm)]
    network.eval()
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # cumulative mean over the batches
        norm.train()
    size = data.chunk(_BATCH)
    for batch in batch_slices(len(data) if norms else 0, size):
        network(to_input(data.images[batch]))
