"""Mix two finished runs into one network: choose the mixture's rule on held-out images, under attack.

The search alternates (as cutting planes do): it picks the rule with the best clean accuracy among those that keep the
robust half's accuracy on all adversarial images so far, attacks the mixture of that rule, and adds those images.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from abnn_serve.arrays import batch_slices
from abnn_serve.errors import ConfigError, TrainingError
from abnn_serve.lab.abnn.mixture import MixtureNetwork, MixtureRule
from abnn_serve.lab.attacks.base import Attack
from abnn_serve.lab.attacks.pgd import PGD
from abnn_serve.lab.data.dataset import ImageData
from abnn_serve.lab.data.load import agree
from abnn_serve.lab.device import describe_device
from abnn_serve.lab.training.batches import to_input
from abnn_serve.lab.training.run import MixtureConfig, Run, RunConfig
from abnn_serve.lab.training.weights_file import open_run

_SCALES = (0.25, 0.5, 1.0, 2.0, 4.0, 8.0)
_POWERS = (1.0, 2.0, 3.0, 4.0)
_SHIFTS = (-1.0, -0.5, 0.0, 0.5, 1.0)
_SHARES = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.97, 0.98, 0.99, 0.995, 0.999)
RULES = tuple(
    MixtureRule(scale=scale, power=power, shift=shift, share=share)
    for scale, power, shift, share in itertools.product(_SCALES, _POWERS, _SHIFTS, _SHARES)
)
_BATCH = 250


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """One round of the search.

    Attributes:
        rule: the rule that was attacked.
        clean: its accuracy on all held-out images.
        expected: its accuracy on the adversarial images of the rounds before, the worst for each image.
        adversarial: the same with the images of this round's attack.
    """

    rule: MixtureRule
    clean: float
    expected: float
    adversarial: float


@dataclass(frozen=True, slots=True)
class _Logits:
    """Logits of both halves, (N, classes) each, and the true classes, (N,)."""

    robust: Tensor
    clean: Tensor
    y: Tensor

    def is_correct(self, rule: MixtureRule) -> Tensor:
        return rule(self.robust, self.clean).argmax(dim=1) == self.y


def mix_runs(
    robust: str | Path,
    clean: str | Path,
    out: Path,
    data: ImageData,
    *,
    keep: float = 0.97,
    images: int = 500,
    eps: float = 8 / 255,
    rounds: int = 8,
    device: str = "cpu",
    seed: int = 0,
    on_round: Callable[[Round], None] = lambda _: None,
) -> Run:
    """Write a run that holds the mixture of two finished runs, or of bundles with weights.

    Args:
        robust: the half whose robustness the mixture keeps.
        clean: the more accurate half.
        out: directory of the new run.
        data: images that neither half was trained on, and that no one will evaluate the mixture on.
        keep: share of the robust half's adversarial accuracy that the mixture must keep, in (0, 1].
        images: number of images to attack.
        eps: Linf budget of the attacks, in units of [0, 1] pixels.
        rounds: largest number of rules to attack.
        device: torch device.
        seed: random seed of the attacks.
        on_round: called after each round.

    Raises:
        ConfigError: `keep` is out of range, or the halves have different inputs or classes.
        TrainingError: no rule keeps enough, or `out` already holds a run.
    """
    if not 0 < keep <= 1:
        raise ConfigError(f"keep is {keep}, expected a share greater than 0 and at most 1")
    if Run(out).exists:
        raise TrainingError(f"{out} already holds a run; choose another --out")
    started = time.perf_counter()
    sources = _open_halves(robust, clean, data)
    halves: list[nn.Module] = [source.network().to(device) for source in sources]
    data = agree(sources[0].config.labels, data)
    everything = _logits(halves, to_input(data.images, "cpu"), torch.from_numpy(data.labels), device)
    sample = data.spread(images)
    x, y = to_input(sample.images, "cpu"), torch.from_numpy(sample.labels)
    attacks = [PGD(eps=eps, step_size=eps / 4, loss=loss) for loss in ("ce", "margin")]

    def attacked(network: nn.Module) -> list[_Logits]:
        return [_logits(halves, _attack(attack, network, x, y, device, seed), y, device) for attack in attacks]

    pool = attacked(halves[0])
    base = torch.stack([part.robust.argmax(dim=1) == y for part in pool]).all(dim=0).float().mean().item()
    result = None
    for _ in range(rounds):
        rule = _best_rule(everything, pool, keep * base)
        expected = _worst(pool, rule)
        pool += attacked(MixtureNetwork(halves[0], halves[1], rule))
        result = Round(
            rule=rule,
            clean=everything.is_correct(rule).float().mean().item(),
            expected=expected,
            adversarial=_worst(pool, rule),
        )
        on_round(result)
        if result.adversarial >= keep * base:
            break
    else:
        raise TrainingError(
            f"after {rounds} rounds no rule keeps {keep:.0%} of the robust half's {base:.1%} under attack; "
            "lower --keep, or train a more robust half"
        )
    assert result is not None  # noqa: S101
    return _write(out, sources, result, time.perf_counter() - started)


def _open_halves(robust: str | Path, clean: str | Path, data: ImageData) -> list[Run]:
    runs = [open_run(robust), open_run(clean)]
    for run in runs:
        if run.config.mixture is not None:
            raise ConfigError(f"{run.path} is a mixture itself; mix the runs that it was made of")
        if run.config.data_digest == data.digest:
            raise ConfigError(f"{run.path} was trained on these images; give held-out images")
    first, second = (run.config for run in runs)
    if first.input != second.input or first.labels != second.labels:
        raise ConfigError(
            f"{runs[0].path} and {runs[1].path} have different inputs or classes; train both on one data set"
        )
    return runs


@torch.no_grad()
def _logits(halves: list[nn.Module], x: Tensor, y: Tensor, device: str) -> _Logits:
    parts = [
        torch.cat([half.eval()(x[batch].to(device)).float().cpu() for batch in batch_slices(len(x), _BATCH)])
        for half in halves
    ]
    return _Logits(parts[0], parts[1], y)


def _attack(attack: Attack, network: nn.Module, x: Tensor, y: Tensor, device: str, seed: int) -> Tensor:
    """Adversarial images of every sample: early stopping would leave images that are weak for other rules."""
    return torch.cat(
        [
            attack(network, x[batch].to(device), y[batch].to(device), seed=seed, early_stop=False).cpu()
            for batch in batch_slices(len(x), _BATCH)
        ]
    )


def _worst(pool: list[_Logits], rule: MixtureRule) -> float:
    """Accuracy on the worst adversarial image of each sample."""
    return torch.stack([part.is_correct(rule) for part in pool]).all(dim=0).float().mean().item()


def _best_rule(clean: _Logits, pool: list[_Logits], least: float) -> MixtureRule:
    """The most accurate rule among those that keep at least `least` on the pool; else the one that keeps most."""
    kept = [(rule, _worst(pool, rule)) for rule in RULES]
    allowed = [rule for rule, accuracy in kept if accuracy >= least]
    if not allowed:
        return max(kept, key=lambda pair: pair[1])[0]
    return max(allowed, key=lambda rule: clean.is_correct(rule).float().mean().item())


def _write(out: Path, sources: list[Run], result: Round, seconds: float) -> Run:
    robust, clean = (source.config for source in sources)
    config = replace(robust, mixture=_half(clean, result.rule), init_source=" + ".join(s.path.name for s in sources))
    config = replace(config, init_seconds=sum(source.total_seconds for source in sources))
    network = config.build()
    assert isinstance(network, MixtureNetwork)  # noqa: S101
    network.robust.load_state_dict(sources[0].network().state_dict())
    network.clean.load_state_dict(sources[1].network().state_dict())
    out.mkdir(parents=True, exist_ok=True)
    run = Run(out)
    run.write_config(config)
    record = {"epoch": 0, "seconds": seconds, "val_accuracy": result.clean, "val_pgd_accuracy": result.adversarial}
    run.write_metrics([{**record, "hardware": describe_device("cpu")}])
    run.write_tensors("weights.pt", network.state_dict())
    return run


def _half(config: RunConfig, rule: MixtureRule) -> MixtureConfig:
    return MixtureConfig(rule=rule, target=config.target, substitute=config.substitute, plan=config.plan)
