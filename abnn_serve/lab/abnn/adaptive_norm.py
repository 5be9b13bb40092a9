"""The adaptive normalisation layer: it replaces a sample's own statistics with the substitute's.

    z' = gamma(mu_s, sigma_s) * (z - mu(z)) / sqrt(var(z) + eps) + beta(mu_s, sigma_s)

after Lo & Patel, "Adaptive Batch Normalization Networks for Adversarial Robustness" (AVSS 2024), which follows adaptive
instance normalisation (Huang & Belongie, ICCV 2017). mu(z) and var(z) are taken over the spatial axes of one sample
alone; mu_s and sigma_s are those of the paired substitute layer's BatchNorm output for the same sample. The
`conditional` form keeps the replaced BatchNorm's mu(z) and var(z), in eval mode its running statistics, as in
conditional batch normalisation (de Vries et al., NIPS 2017): the adaptive network starts as the trained target.
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
    """Mean and biased variance of each sample and channel over the spatial axes.

    Args:
        features: (N, C, *S), any float dtype.

    Returns:
        mean and variance, each (N, C), in float32, or float64 for float64 features.
    """
    flat = _precise(features).flatten(2)
    mean = flat.mean(dim=2)
    return mean, (flat - mean.unsqueeze(2)).square().mean(dim=2)


def _without_autocast(features: Tensor) -> AbstractContextManager[object]:
    """Disable autocast for statistics; not during export, where the context takes a quarter of the export's time."""
    if torch.compiler.is_exporting():
        return nullcontext()
    return torch.autocast(features.device.type, enabled=False)


def over_frames(statistics: tuple[Tensor, Tensor], frames: int) -> tuple[Tensor, Tensor]:
    """Combine (mean, standard deviation) of frames, (N * T, K), into those of clips of T frames, (N, K).

    The law of total variance, with equal weights: the frames have one size.
    """
    mean, deviation = (value.view(-1, frames, value.shape[1]) for value in statistics)
    overall = mean.mean(dim=1)
    variance = deviation.square() + (mean - overall.unsqueeze(1)).square()
    return overall, variance.mean(dim=1).sqrt()


def _precise(features: Tensor) -> Tensor:
    return features.to(torch.promote_types(features.dtype, torch.float32))


class StatisticsTap(nn.Module):
    """An identity that records its input's (mean, standard deviation), each float32 (N, K), as `statistics`."""

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
    """Replaces a BatchNorm of C channels; gamma and beta depend on K channels of the substitute.

    The `linear` form learns one linear map from the standardised statistics to gamma and beta, beside a static part
    that starts as the replaced BatchNorm's affine; the map starts at zero. The `conditional` form has the same map, and
    normalises with `norm`, a BatchNorm, instead of the sample's own statistics. The `adain` form has no parameters:
    gamma is sigma_s, beta is mu_s, and K equals C.

    Buffers `statistics_center` and `statistics_scale`, (2K,), standardise (mu_s, sigma_s) over a data set.

    Args:
        channels: C.
        statistics: K.
        form: `linear`, `conditional` or `adain`.
        rank: factor the map, (2C, 2K), into (2C, rank) and (rank, 2K), which is smaller and faster for hundreds of
            channels; a rank that would not make it smaller is ignored.
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
        """(N, C, *S) to the same shape and dtype; AdaptiveNetwork must have set `style`."""
        if self.style is None:
            raise RuntimeError("AdaptiveNorm has no statistics; call the AdaptiveNetwork, not its target")
        with _without_autocast(features):
            gamma, beta = self.modulation(*self.style)
            spatial = (...,) + (None,) * (features.dim() - 2)
            if self.norm is not None:
                normalised: Tensor = self.norm(_precise(features))
                return (normalised * gamma[spatial] + beta[spatial]).to(features.dtype)
            mean, variance = channel_statistics(features)
            scale = gamma * (variance + EPS).rsqrt()
            shift = beta - mean * scale
            return (_precise(features) * scale[spatial] + shift[spatial]).to(features.dtype)
