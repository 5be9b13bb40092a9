"""What a network sees of the images of one training step: masks hide parts of them, Gaussian noise is added."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations_with_replacement

import torch
from torch import Tensor, nn

from abnn_serve.answer import mask_set
from abnn_serve.arrays import batch_slices
from abnn_serve.lab.abnn.mixture import MixtureNetwork
from abnn_serve.lab.abnn.network import AdaptiveNetwork, Network, PixelNetwork
from abnn_serve.lab.attacks.base import EvalMode, Model, is_correct
from abnn_serve.lab.data.dataset import ImageData
from abnn_serve.lab.training.batches import to_input
from abnn_serve.lab.training.distributed import ALONE, Workers
from abnn_serve.lab.training.recipe import Recipe

_BATCH = 256  # images, or frames of clips, of one pass of a validation


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """A function of images, float (N, 3, [T,] H, W): `hidden` pixels become `fill`, then `noise` is added.

    Attributes:
        hidden: bool (N, 1, H, W), or (N, 1, 1, H, W) of clips, whose frames share the masks; None hides nothing.
        fill: float (3,), in units of [0, 1].
        noise: of the images' shape; None adds nothing. The sum is not clipped to [0, 1].
    """

    hidden: Tensor | None
    fill: Tensor
    noise: Tensor | None

    def __call__(self, x: Tensor) -> Tensor:
        """The images as the network sees them."""
        if self.hidden is not None:
            x = _hide(x, self.hidden, self.fill)
        return x if self.noise is None else x + self.noise


def draw_view(
    recipe: Recipe,
    network: Model,
    fill: Tensor,
    x: Tensor,
    y: Tensor,
    generator: torch.Generator,
    *,
    workers: Workers = ALONE,
    eval_mode: EvalMode | None = None,
) -> View:
    """The view of one step: masks of the recipe's mask set, and noise, drawn for each image.

    With `mask_choices` above 1 the masks are the worst of several by loss, one mask after the other (Saha et al. 2023,
    Greedy Cutout): the network judges the images of each candidate in eval mode, without the noise.

    Args:
        recipe: sets masks and noise.
        network: returns logits; its mode is restored.
        fill: float (3,), of hidden pixels.
        x: float (N, 3, [T,] H, W) in [0, 1].
        y: int64 (N,).
        generator: source of the random choices.
        workers: the processes that train together; `x` is this one's share of a batch.
        eval_mode: of `network`, to use again in every step; None makes one.
    """
    judged = eval_mode or EvalMode(network)
    hidden = _draw_masks(recipe, network, judged, fill, x, y, generator, workers) if recipe.masking else None
    return View(hidden=hidden, fill=fill, noise=_draw_noise(recipe, x, generator, workers))


def second_view(recipe: Recipe, view: View, x: Tensor, generator: torch.Generator, workers: Workers = ALONE) -> View:
    """A view with the same masks and other noise."""
    return View(hidden=view.hidden, fill=view.fill, noise=_draw_noise(recipe, x, generator, workers))


def fill_of(network: Network) -> Tensor:
    """The mean that the target's normalisation subtracts, rounded to a uint8 pixel; float (3,) in units of [0, 1]."""
    half = network.robust if isinstance(network, MixtureNetwork) else network
    target: PixelNetwork = half.target if isinstance(half, AdaptiveNetwork) else half  # type: ignore[assignment]
    return (target.mean.flatten() * 255).round() / 255


def accuracy_under_views(network: Network, data: ImageData, recipe: Recipe, device: str) -> dict[str, float]:
    """Accuracy, in [0, 1], under every pair of masks at once and under one draw of noise, as records of metrics.jsonl.

    An image counts as correct under masks if the network classifies it correctly with each mask and each pair of them:
    then double masking certifies it. Clips are judged one by one.
    """
    x, y = to_input(data.images, device), torch.from_numpy(data.labels).to(device)
    batches = list(batch_slices(len(x), data.chunk(_BATCH)))
    accuracies = {}
    if recipe.masking:
        fill, masks = fill_of(network).to(x), _masks(recipe, x)
        correct = torch.ones(len(x), dtype=torch.bool, device=x.device)
        for one, other in combinations_with_replacement(masks, 2):
            for batch in batches:
                part = batch.start + correct[batch].nonzero().flatten()
                if len(part):
                    correct[part] = is_correct(network, _hide(x[part], one | other, fill), y[part])
        accuracies["val_masked_accuracy"] = float(correct.float().mean())
    if recipe.noise:
        noisy = View(hidden=None, fill=x, noise=_draw_noise(recipe, x, torch.Generator().manual_seed(0), ALONE))(x)
        correct = torch.cat([is_correct(network, noisy[batch], y[batch]) for batch in batches])
        accuracies["val_noisy_accuracy"] = float(correct.float().mean())
    return accuracies


def _draw_masks(
    recipe: Recipe,
    network: Model,
    eval_mode: EvalMode,
    fill: Tensor,
    x: Tensor,
    y: Tensor,
    generator: torch.Generator,
    workers: Workers,
) -> Tensor:
    """The union of each image's masks, bool (N, 1, [1,] H, W)."""
    masks = _masks(recipe, x)
    hidden = torch.zeros_like(masks[0]).expand(len(x), *masks.shape[1:])
    for _ in range(recipe.masks):
        size = (len(x) * workers.count, len(masks))
        order = torch.rand(size, generator=generator, device=generator.device).argsort(dim=1)
        candidates = workers.share(order)[:, : recipe.mask_choices].to(x.device)
        chosen = candidates[:, 0]
        if candidates.shape[1] > 1:
            with torch.no_grad(), eval_mode():
                losses = [
                    nn.functional.cross_entropy(
                        network(_hide(x, hidden | masks[each], fill)).float(), y, reduction="none"
                    )
                    for each in candidates.unbind(dim=1)
                ]
            chosen = candidates.gather(1, torch.stack(losses, dim=1).argmax(dim=1, keepdim=True)).squeeze(1)
        hidden = hidden | masks[chosen]
    return hidden


def _draw_noise(recipe: Recipe, x: Tensor, generator: torch.Generator, workers: Workers) -> Tensor | None:
    if not recipe.noise:
        return None
    size = (len(x) * workers.count, *x.shape[1:])
    whole = torch.randn(size, generator=generator, device=generator.device)
    return recipe.noise * workers.share(whole).to(x)


def _masks(recipe: Recipe, x: Tensor) -> Tensor:
    """The recipe's mask set for images of x's size, bool (M, 1, [1,] H, W)."""
    height, width = x.shape[-2:]
    masks = torch.from_numpy(mask_set((height, width), (recipe.masking, recipe.masking), recipe.mask_grid))
    return masks.view(-1, *[1] * (x.dim() - 3), height, width).to(x.device)


def _hide(x: Tensor, hidden: Tensor, fill: Tensor) -> Tensor:
    return torch.where(hidden, fill.view(1, -1, *[1] * (x.dim() - 2)).to(x.dtype), x)
