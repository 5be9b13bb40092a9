"""AutoAttack (Croce & Hein, ICML 2020) in its authors' package: APGD-CE, APGD-T, FAB-T and Square."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from abnn_serve.card import Norm
from abnn_serve.errors import ConfigError
from abnn_serve.lab.attacks.base import Attack, Model, Passes, as_images


class AutoAttackWarning(UserWarning):
    """A warning of AutoAttack that its figure may mislead."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AutoAttack(Attack):
    """The standard version, with fewer than nine target classes if the model has fewer wrong classes.

    Attributes:
        norm: Linf or L2.
    """

    norm: Norm = "Linf"

    @property
    def name(self) -> str:
        return "AutoAttack"

    @property
    def passes(self) -> Passes:
        """100 steps of APGD-CE and, for each of nine classes, of APGD-T and of FAB-T; 5,000 queries of Square."""
        return Passes(gradients=1900, queries=5000)

    def passes_if_broken(self, *, early_stop: bool) -> Passes:  # noqa: ARG002
        """All steps of APGD-CE."""
        return Passes(gradients=100)

    def perturb(self, model: Model, x: Tensor, y: Tensor, generator: torch.Generator, *, early_stop: bool) -> Tensor:  # noqa: ARG002
        """See `Attack`; always stops early."""
        try:
            import pyautoattack
        except ImportError as error:
            raise ConfigError(
                "AutoAttack needs the package pyautoattack; install it with: pip install 'abnn_serve[attacks]'"
            ) from error

        shape = x.shape
        model, x = as_images(model, x)
        seed = int(torch.randint(2**31, (), generator=generator))
        x = x.contiguous()  # the package calls view(), which other layouts do not support
        auto = pyautoattack.AutoAttack(model, norm=self.norm, eps=self.eps, device=x.device, seed=seed)
        wrong = model(x[:1]).shape[1] - 1
        for targeted in (auto.apgd_targeted, auto.fab):
            targeted.n_target_classes = min(targeted.n_target_classes, wrong)
        with _flags_as_warnings(auto.logger):
            x_adv: Tensor = auto.run_standard_evaluation(x, y, batch_size=len(x))[0]
        return x_adv.view(shape)


@contextmanager
def _flags_as_warnings(logger: logging.Logger) -> Iterator[None]:
    handler = _WarningHandler(logging.WARNING)
    propagate, logger.propagate = logger.propagate, False
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.propagate = propagate


class _WarningHandler(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        warnings.warn(record.getMessage(), AutoAttackWarning, stacklevel=2)
