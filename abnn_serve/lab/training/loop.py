"""The training loop, the same for every recipe: resumable, and stopped by a non-finite loss or a collapse."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from abnn_serve.errors import NetworkError, TrainingError
from abnn_serve.lab.abnn.network import Network, in_fast_layout
from abnn_serve.lab.attacks.base import EvalMode
from abnn_serve.lab.data.dataset import ImageData
from abnn_serve.lab.training.adversarial import craft
from abnn_serve.lab.training.batches import HeldData, hold, training_batches
from abnn_serve.lab.training.collapse import find_collapse
from abnn_serve.lab.training.distributed import ALONE, Workers, synchronise_norms
from abnn_serve.lab.training.features import FeatureTap
from abnn_serve.lab.training.fixed_statistics import FixedStatistics
from abnn_serve.lab.training.freezing import freeze, set_training_mode
from abnn_serve.lab.training.plots import draw_curves
from abnn_serve.lab.training.recipe import Recipe
from abnn_serve.lab.training.run import Run
from abnn_serve.lab.training.state import TrainingState
from abnn_serve.lab.training.terms import Step, Teacher, step_loss
from abnn_serve.lab.training.validation import validate
from abnn_serve.lab.training.views import draw_view, fill_of, second_view
from abnn_serve.lab.training.weight_perturbation import perturbed_weights

_CHECK_EVERY = 20  # steps between checks of the losses; each check synchronises a GPU
_REPORT_SECONDS = 10  # longest time without a progress report


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """Progress of a training run, for display; `images_per_second` counts this epoch of this process."""

    epoch: int
    epochs: int
    step: int
    steps: int
    loss: float
    accuracy: float
    images_per_second: float


def fit(
    run: Run,
    network: Network,
    data: ImageData,
    val: ImageData,
    *,
    device: str = "cpu",
    compiled: bool = False,
    teacher: Network | None = None,
    workers: Workers = ALONE,
    on_progress: Callable[[Progress], None] = lambda _: None,
) -> Network:
    """Train `network` as `run.config` says, from the last checkpoint of `run` if it has one.

    Writes a checkpoint, metrics.jsonl and curves.png after every epoch, and weights.pt (the averaged weights) at the
    end. A run that was killed and resumed ends with the same weights as an uninterrupted one, on the same CPU; on CUDA
    they may differ in the last digits, because some kernels add in no fixed order.

    Raises:
        TrainingError: the loss is not finite, or robust accuracy collapsed; names the last good checkpoint.
    """
    recipe, seed = run.config.recipe, run.config.seed
    steps = len(data) // recipe.batch_size
    torch_device = torch.device(device)
    in_fast_layout(network.to(torch_device))
    freeze(network, recipe.trained)
    share = recipe.fixed_statistics
    fixed = FixedStatistics(network, share) if share else None  # of the first weights, also when it resumes
    state = TrainingState(network, recipe, steps)
    if run.checkpoints:
        state.load(torch.load(run.checkpoints[-1], map_location=torch_device, weights_only=True))
    synchronise_norms(network, workers)
    lesson = None if teacher is None else _teacher(recipe, network, teacher.to(torch_device))
    forward = torch.compile(network) if compiled else network
    learned = fixed or forward
    held = hold(data, torch_device)
    for epoch in range(state.epoch, recipe.epochs):
        torch.manual_seed(seed * 1_000_003 + epoch)
        rng = np.random.default_rng([seed, epoch])
        entry = _train_epoch(run, state, forward, learned, data, held, rng, torch_device, on_progress, lesson, workers)
        entry |= validate(state.average, val, recipe, device)
        if not math.isfinite(entry["val_loss"]):
            raise TrainingError(_not_finite(run, "the validation loss", state, state.steps))
        if best := find_collapse(state.history, entry):
            raise TrainingError(_collapsed(run, state, best, entry["val_pgd_accuracy"]))
        state.finish_epoch(entry)
        if workers.is_leader:
            run.checkpoint(state.epoch, state.dump())
            if state.epoch < recipe.epochs:
                _record(run, state)
    if workers.is_leader:
        _record(run, state)  # a kill between the last checkpoint and its record
        run.write_tensors("weights.pt", {name: value.cpu() for name, value in state.average.state_dict().items()})
    workers.wait()
    return state.average.cpu()


def _teacher(recipe: Recipe, network: Network, teacher: Network) -> Teacher:
    teacher.eval().requires_grad_(requires_grad=False)
    return Teacher(teacher, (FeatureTap(network), FeatureTap(teacher)) if recipe.feature_weight else None)


def _record(run: Run, state: TrainingState) -> None:
    run.write_metrics(state.history)
    draw_curves(state.history, run.path / "curves.png")


def _train_epoch(
    run: Run,
    state: TrainingState,
    forward: Callable[[Tensor], Tensor],
    learned: Callable[[Tensor], Tensor],
    data: ImageData,
    held: HeldData | None,
    rng: np.random.Generator,
    device: torch.device,
    on_progress: Callable[[Progress], None],
    teacher: Teacher | None,
    workers: Workers,
) -> dict[str, Any]:
    recipe = state.recipe
    generator = noise_source(device).manual_seed(torch.initial_seed())
    set_training_mode(state.network, recipe.trained)
    losses: list[Tensor] = []
    correct = torch.zeros((), device=device)
    started = reported = time.perf_counter()
    bf16 = _use_bf16(device, state.network)

    def logits_of(network: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            logits = network(images)
        if not isinstance(logits, Tensor):
            raise NetworkError(
                f"in training mode the network returns {type(logits).__name__}, expected logits; wrap it"
            )
        return logits.float()

    learner = partial(logits_of, learned)
    average = torch.no_grad()(partial(logits_of, state.average))
    if teacher is not None:
        teacher = replace(teacher, logits=torch.no_grad()(partial(logits_of, teacher.logits)))
    fill, eval_mode = fill_of(state.network), EvalMode(forward)
    for step, (x, y) in enumerate(training_batches(data, recipe, rng, device, held), start=1):
        x, y = workers.share(x), workers.share(y)  # noqa: PLW2901
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            view = draw_view(recipe, forward, fill, x, y, generator, workers=workers, eval_mode=eval_mode)
            x_adv = craft(
                *(recipe, forward, x, y, state.progress, generator),
                step=step,
                workers=workers,
                view=view,
                eval_mode=eval_mode,
            )
        again = second_view(recipe, view, x, generator, workers)(x_adv) if recipe.consistency else None
        batch = Step(x=view(x), x_adv=view(x_adv), y=y, progress=state.progress, whole=x, x_again=again)
        loss_of = partial(step_loss, recipe, learner, batch, average, teacher)
        size = recipe.weight_perturbation
        with perturbed_weights(state.network, size, batch.progress, lambda: loss_of()[0], workers):  # noqa: B023
            loss, logits = loss_of()
            loss.backward()  # type: ignore[no-untyped-call]
        workers.average(parameter.grad for parameter in state.network.parameters() if parameter.grad is not None)
        state.step()
        losses.append(loss.detach())
        correct += (logits.detach().argmax(dim=1) == y).sum()
        is_slow = time.perf_counter() - reported > _REPORT_SECONDS
        if step % _CHECK_EVERY == 0 or step == state.steps or is_slow:
            reported = time.perf_counter()
            _refuse_nan(run, losses, state)
            seen = step * recipe.batch_size // workers.count
            on_progress(
                Progress(
                    epoch=state.epoch + 1,
                    epochs=recipe.epochs,
                    step=step,
                    steps=state.steps,
                    loss=float(torch.stack(losses[-_CHECK_EVERY:]).mean()),
                    accuracy=float(correct) / seen,
                    images_per_second=seen * workers.count / (time.perf_counter() - started),
                )
            )
    seconds = time.perf_counter() - started
    mean_loss = torch.stack(losses).mean()
    workers.average([mean_loss, correct])
    return {
        "loss": float(mean_loss),
        "accuracy": float(correct) * workers.count / (state.steps * recipe.batch_size),
        "lr": state.schedule.get_last_lr()[0],
        "seconds": round(seconds, 3),
        "images_per_second": round(state.steps * recipe.batch_size / seconds, 1),
    }


def noise_source(device: torch.device) -> torch.Generator:
    """A generator on the device: on CUDA, noise needs no copy; other devices take the CPU's."""
    return torch.Generator(device if device.type == "cuda" else "cpu")


def _refuse_nan(run: Run, losses: list[Tensor], state: TrainingState) -> None:
    finite = torch.stack(losses).isfinite()
    if not bool(finite.all()):
        step = int(finite.logical_not().nonzero()[0]) + 1
        raise TrainingError(_not_finite(run, "the loss", state, step))


def _not_finite(run: Run, what: str, state: TrainingState, step: int) -> str:
    last = run.checkpoints[-1].name if run.checkpoints else "none yet"
    return (
        f"{what} is not finite at epoch {state.epoch + 1}, step {step}; last good checkpoint: {last}; "
        "start again with a lower --lr and another --out"
    )


def _collapsed(run: Run, state: TrainingState, best: float, robust: float) -> str:
    return (
        f"catastrophic overfitting: PGD accuracy fell from {best:.1%} to {robust:.1%} in epoch {state.epoch + 1}; "
        f"last good checkpoint: {run.checkpoints[-1].name}; "
        "start again with the recipe n-fgsm or --set attack_steps=2, and another --out"
    )


def _use_bf16(device: torch.device, network: Network) -> bool:
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported())
    # oneDNN's bf16 weight gradient of a 3x3x3 convolution over two frames is uninitialised memory (torch 2.15)
    over_frames = any(isinstance(module, nn.Conv3d) for module in network.modules())
    has_bf16 = getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)  # private: other versions may lack it
    return device.type == "cpu" and not over_frames and bool(has_bf16())
