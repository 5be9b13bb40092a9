"""The plain answer: one pass, no certificate."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from abnn_serve.errors import ConfigError
from abnn_serve.runtime.rules.base import RuleAnswer, Steps

NO_CERTIFICATE = (
    "this model answers in one pass and proves nothing of its answers; choose a model with an answer rule, or export "
    "one with --answer masks:patch=5,k=3"
)


class PlainRule:
    """The logits of the sample itself."""

    certifies = False

    def steps(self, sample: NDArray[np.uint8], *, certify: bool = False) -> Steps:
        """One pass; ConfigError with `certify`."""
        if certify:
            raise ConfigError(NO_CERTIFICATE)
        (logits,) = yield sample[None]
        return RuleAnswer(logits=logits, passes=1)

    def usual_passes(self, *, certify: bool = False) -> int:  # noqa: ARG002
        """One."""
        return 1

    def max_passes(self, *, certify: bool = False) -> int:  # noqa: ARG002
        """One."""
        return 1
