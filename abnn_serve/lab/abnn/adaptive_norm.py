"""The adaptive normalisation layer: instance statistics out, the substitute's statistics in.

    z' = gamma(mu_s, sigma_s) * (z - mu(z)) / sqrt(var(z) + eps) + beta(mu_s, sigma_s)

after Lo & Patel, "Adaptive Batch Normalization Networks for Adversarial Robustness" (AVSS 2024), which follows adaptive
instance normalisation (Huang & Belongie, ICCV 2017). mu(z) and var(z) are taken over the spatial axes of one sample
alone; mu_s and sigma_s are those of the paired substitute layer's BatchNorm output for the same sample. The
`conditional` form leaves mu(z) and var(z) to the replaced BatchNorm: its running statistics where it answers, as in
conditional batch normalisation (de Vries et al., NIPS 2017), so it starts as the network that it was put into.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

Form = Literal["linear", "conditional", "adain"]

EPS = 1e-5


def channel_statistics(features: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and biased variance of each channel over the spatial axes, in float32 or better.

    Args:
        features: (N, C, *S), any float dtype.

    Returns:
        mean and variance of each sample alone, float32 (N, C).
    """
    flat = _precise(features).flatten(2)
    mean = flat.mean(dim=2)
    return mean, (flat - mean.unsqueeze(2)).square().mean(dim=2)


def _without_autocast(features: Tensor) -> AbstractContextManager[object]:
    """Statistics in the precision that `_precise` gives them; the exporter would spend a quarter of its time on it."""
    if torch.compiler.is_exporting():
        return nullcontext()
    return torch.autocast(features.device.type, enabled=False)


def over_frames(statistics: tuple[Tensor, Tensor], frames: int) -> tuple[Tensor, Tensor]:
    """(mean, standard deviation) of each frame, (N * T, K), to those over the T frames of each clip, (N, K).

    By the law of total variance: the frames are of one size.
    """
    mean, deviation = (value.view(-1, frames, value.shape[1]) for value in statistics)
    whole = mean.mean(dim=1)
    variance = deviation.square() + (mean - whole.unsqueeze(1)).square()
    return whole, variance.mean(dim=1).sqrt()


def _precise(features: Tensor) -> Tensor:
    return features.to(torch.promote_types(features.dtype, torch.float32))


class StatisticsTap(nn.Module):
    """Passes features on unchanged and keeps their (mean, standard deviation), each float32 (N, K)."""

    def __init__(self) -> None:
        super().__init__()
        self.statistics: tuple[Tensor, Tensor] | None = None

    def forward(self, features: Tensor) -> Tensor:
        with _without_autocast(features):
            mean, variance = channel_statistics(features)
            self.statistics = mean, (variance + EPS).sqrt()
        return features


class PlainNorm(_BatchNorm):
    """BatchNorm without an affine map, over any number of spatial axes."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, eps=EPS, affine=False)

    def _check_input_dim(self, input: Tensor) -> None:  # noqa: A002 - torch's name
        pass


class AdaptiveNorm(nn.Module):
    """Replaces a BatchNorm of C channels; driven by K substitute channels.

    The `linear` form learns one linear map from the standardised statistics to gamma and beta, beside a static part
    that starts as the replaced BatchNorm's affine; the map starts at zero. A `rank` makes it a product of two, through
    so many numbers: where C and K are some hundreds, a full map weighs as much as a convolution and has to be read for
    every answer. The `conditional` form has the same maps behind `norm`, a BatchNorm, in the place of the sample's own
    statistics. The `adain` form has no parameters: gamma is sigma_s, beta is mu_s, and K equals C.

    Buffers `statistics_center` and `statistics_scale`, (2K,), standardise (mu_s, sigma_s) over a data set.
    """

    statistics_center: Tensor
    statistics_scale: Tensor

    def __init__(
        self,
        channels: int,
        statistics: int,
        form: Form = "linear",
        rank: int | None = None,
    ) -> None:
        super().__init__()
        self.channels = channels
        self.form: Form = form
        self.rank = rank if rank and rank < 2 * min(channels, statistics) else None
        self.style: tuple[Tensor, Tensor] | None = None
        self.norm = PlainNorm(channels) if form == "conditional" else None
        if form != "adain":
            self.gamma = nn.Parameter(torch.ones(channels))
            self.beta = nn.Parameter(torch.zeros(channels))
            self.map = nn.Parameter(torch.zeros(2 * channels, self.rank or 2 * statistics))
            if self.rank:
                self.down = nn.Parameter(nn.init.orthogonal_(torch.empty(self.rank, 2 * statistics)))
            self.register_buffer("statistics_center", torch.zeros(2 * statistics))
            self.register_buffer("statistics_scale", torch.ones(2 * statistics))

    def extra_repr(self) -> str:
        return f"{self.channels}, form={self.form}, rank={self.rank}"

    def modulation(self, mean: Tensor, deviation: Tensor) -> tuple[Tensor, Tensor]:
        """(mu_s, sigma_s), each (N, K), to (gamma, beta), each (N, C)."""
        if self.form == "adain":
            return deviation, mean
        code = torch.cat([mean, deviation], dim=1)
        code = (code - self.statistics_center) / self.statistics_scale
        if self.rank:
            code = nn.functional.linear(code, self.down)
        gamma, beta = nn.functional.linear(code, self.map).chunk(2, dim=1)
        return self.gamma + gamma, self.beta + beta

    def forward(self, features: Tensor) -> Tensor:
        """(N, C, *S) to the same shape and dtype. `style`, set by AdaptiveNetwork, must be there."""
        if self.style is None:
            raise RuntimeError("AdaptiveNorm has no statistics: call the AdaptiveNetwork, not its target")
        with _without_autocast(features):
            gamma, beta = self.modulation(*self.style)
            spatial = (...,) + (None,) * (features.dim() - 2)
            if self.norm is not None:
                normal: Tensor = self.norm(_precise(features))
                return (normal * gamma[spatial] + beta[spatial]).to(features.dtype)
            mean, variance = channel_statistics(features)
            scale = gamma * (variance + EPS).rsqrt()
            shift = beta - mean * scale
            return (_precise(features) * scale[spatial] + shift[spatial]).to(features.dtype)
