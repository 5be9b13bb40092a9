"""Answer rules, the values of a bundle that say how an answer is made of several passes, and their mask sets."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from abnn_serve.codec import OMITTED_IF_NONE
from abnn_serve.errors import ConfigError

MAX_PASSES = 100_000
_MAX_VIEWS = 10_000  # of one certificate: k = 11 along both axes


@dataclass(frozen=True, slots=True, kw_only=True)
class Masks:
    """Double masking: see `runtime.rules.masks`.

    Attributes:
        patch: height and width in pixels of the largest patch that the rule is proof against.
        k: masks along each axis, at least 2.
        fill: red, green and blue, 0 to 255, of hidden pixels.
    """

    patch: tuple[int, int]
    k: int
    fill: tuple[int, int, int]

    def __post_init__(self) -> None:
        if not all(0 <= value <= 255 for value in self.fill):
            raise ConfigError(f"the fill of the masks is {self.fill}, expected three values from 0 to 255")
        if self.k**2 * (self.k**2 + 1) // 2 > _MAX_VIEWS:
            raise ConfigError(f"k={self.k} needs more than {_MAX_VIEWS:,} passes for a certificate; use a smaller k")


@dataclass(frozen=True, slots=True, kw_only=True)
class Noise:
    """Randomised smoothing: see `runtime.rules.noise`.

    Attributes:
        sigma: standard deviation of the noise, in units of [0, 1] pixels.
        n: noisy copies for a certificate.
        n0: noisy copies for an answer.
        alpha: probability that a certificate is wrong, in (0, 1/2).
    """

    sigma: float
    n: int = 1000
    n0: int = 100
    alpha: float = 0.001

    def __post_init__(self) -> None:
        if not 0 < self.sigma <= 4:
            raise ConfigError(f"sigma is {self.sigma:g}, expected more than 0 and at most 4, in units of [0, 1] pixels")
        if not 0 < self.alpha < 0.5:
            raise ConfigError(f"alpha is {self.alpha:g}, expected more than 0 and less than 0.5, such as 0.001")
        needed = math.floor(math.log(self.alpha) / math.log(0.5)) + 1  # alpha ** (1 / n) > 1 / 2
        if self.n < needed:
            raise ConfigError(
                f"n is {self.n}, and with alpha {self.alpha:g} fewer than {needed} copies never give a certificate; "
                f"use n={needed} or more"
            )
        if self.n0 < 1 or self.n + self.n0 > MAX_PASSES:
            raise ConfigError(f"n0 is {self.n0} and n is {self.n}, expected n0 >= 1 and at most {MAX_PASSES:,} in all")


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """A bundle's answer rule: exactly one of `masks` and `noise`."""

    masks: Masks | None = field(default=None, metadata=OMITTED_IF_NONE)
    noise: Noise | None = field(default=None, metadata=OMITTED_IF_NONE)

    def __post_init__(self) -> None:
        if (self.masks is None) == (self.noise is None):
            raise ConfigError("an answer rule is either masks or noise, expected exactly one of them")

    def check_size(self, height: int, width: int) -> None:
        """ConfigError if the rule cannot be applied to inputs of this size in pixels."""
        if self.masks:
            mask_set((height, width), self.masks.patch, self.masks.k)

    def __str__(self) -> str:
        if self.masks:
            return f"masks against patches of {self.masks.patch[0]} x {self.masks.patch[1]} pixels, k={self.masks.k}"
        assert self.noise is not None  # noqa: S101
        return (
            f"noise of sigma {self.noise.sigma:g}, n={self.noise.n:,}, n0={self.noise.n0:,}, alpha={self.noise.alpha:g}"
        )


def parse_answer(text: str, size: tuple[int, int], fill: tuple[int, int, int]) -> Answer | None:
    """Parse the value of `--answer`; None means one plain pass.

    Args:
        text: `plain`, `masks:patch=5,k=3` (patch: pixels, HEIGHTxWIDTH or a share of the area such as 10%), or
            `noise:sigma=0.25,n=1000,n0=100,alpha=0.001`; all settings but patch and sigma have defaults.
        size: height and width of the input in pixels.
        fill: colour of hidden pixels.

    Raises:
        ConfigError: an unknown rule or setting, or a value that the rule or this input does not allow.
    """
    kind, _, rest = text.partition(":")
    settings = dict(_parse_setting(part, text) for part in rest.split(",")) if rest else {}
    known = {"plain": set(), "masks": {"patch", "k"}, "noise": {"sigma", "n", "n0", "alpha"}}
    if kind not in known:
        raise ConfigError(f"the answer rule is {text!r}, expected plain, masks:patch=5,k=3 or noise:sigma=0.25")
    if unknown := sorted(settings.keys() - known[kind]):
        expected = ", ".join(sorted(known[kind])) or "none"
        raise ConfigError(f"the answer rule {text!r} has the setting {unknown[0]!r}, expected {expected}")
    if kind == "plain":
        return None
    required = "patch" if kind == "masks" else "sigma"
    if required not in settings:
        raise ConfigError(f"the answer rule {text!r} needs {required}, such as {_EXAMPLES[kind]}")
    if kind == "masks":
        patch = parse_patch(settings["patch"], size)
        answer = Answer(masks=Masks(patch=patch, k=_whole(settings.get("k", "3"), "k"), fill=fill))
    else:
        defaults = {"n": "1000", "n0": "100", "alpha": "0.001"} | settings
        noise = Noise(
            sigma=_real(settings["sigma"], "sigma"),
            n=_whole(defaults["n"], "n"),
            n0=_whole(defaults["n0"], "n0"),
            alpha=_real(defaults["alpha"], "alpha"),
        )
        answer = Answer(noise=noise)
    answer.check_size(*size)
    return answer


_EXAMPLES = {"masks": "masks:patch=5,k=3", "noise": "noise:sigma=0.25"}


def parse_patch(text: str, size: tuple[int, int]) -> tuple[int, int]:
    """Height and width in pixels of `5`, `5x7` or a share of the area of an image of this size, such as `10%`."""
    if match := re.fullmatch(r"([0-9.]+)%", text):
        share = _real(match[1], "patch") / 100
        if not 0 < share < 1:
            raise ConfigError(f"patch is {text!r}, expected a share of the area between 0% and 100%")
        return rectangle(share, *size)
    if match := re.fullmatch(r"([0-9]{1,5})(?:x([0-9]{1,5}))?", text):
        return int(match[1]), int(match[2] or match[1])
    raise ConfigError(f"patch is {text!r}, expected pixels such as 5 or 5x7, or a share of the area such as 10%")


def rectangle(area: float, height: int, width: int) -> tuple[int, int]:
    """Sides in pixels, at least 1, of a rectangle of the image's proportions with at most `area` of its area."""
    side = math.sqrt(area)
    return max(1, int(height * side + 1e-9)), max(1, int(width * side + 1e-9))


def _parse_setting(part: str, text: str) -> tuple[str, str]:
    name, separator, value = part.partition("=")
    if not separator:
        raise ConfigError(f"the answer rule {text!r} has {part!r}, expected NAME=VALUE, such as {_EXAMPLES['masks']}")
    return name.strip(), value.strip()


def _whole(text: str, name: str) -> int:
    if not re.fullmatch(r"[0-9]{1,7}", text):
        raise ConfigError(f"{name} is {text!r}, expected a whole number")
    return int(text)


def _real(text: str, name: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ConfigError(f"{name} is {text!r}, expected a number") from None


def mask_set(size: tuple[int, int], patch: tuple[int, int], k: int) -> NDArray[np.bool_]:
    """Masks of which at least one covers every patch (Xiang, Mahloujifar & Mittal, USENIX Security 2022, R-covering).

    Along an axis of n pixels, with a patch of p and a stride s = ceil((n - p + 1) / k), a mask has m = p + s - 1 pixels
    and the masks start at 0, s, 2s, ..., the last at n - m. A patch that starts at t is inside the mask that starts at
    a iff a <= t <= a + m - p = a + s - 1, so k masks with starts s apart cover every t from 0 to n - p.

    Args:
        size: height and width of the image in pixels.
        patch: height and width of the largest patch in pixels.
        k: masks along each axis, at least 2.

    Returns:
        bool (M, height, width), True where a mask hides a pixel; M is k * k, or less where masks would be equal.
    """
    rows, columns = (
        _intervals(name, length, side, k) for name, length, side in zip(("height", "width"), size, patch, strict=True)
    )
    hidden: NDArray[np.bool_] = rows[:, None, :, None] & columns[None, :, None, :]
    return hidden.reshape(-1, *size)


def _intervals(axis: str, length: int, side: int, k: int) -> NDArray[np.bool_]:
    if not 1 <= side <= length:
        raise ConfigError(f"the patch's {axis} is {side} pixels, expected 1 to the image's {length}")
    stride = -(-(length - side + 1) // k)
    mask = side + stride - 1
    if k < 2 or mask >= length:
        raise ConfigError(
            f"k={k} makes masks of the image's whole {axis} for a patch of {side} pixels; use a larger k or a "
            "smaller patch"
        )
    starts = sorted({min(i * stride, length - mask) for i in range(k)})
    at = np.arange(length) - np.array(starts)[:, None]
    inside: NDArray[np.bool_] = (at >= 0) & (at < mask)
    return inside
