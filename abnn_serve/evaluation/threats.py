"""Threat models: what an attacker holds, as the model that the attack differentiates or queries."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from abnn_serve.card import ThreatModel
from abnn_serve.errors import ConfigError
from abnn_serve.evaluation.gradient_check import TOLERANCE, gradient_error
from abnn_serve.lab.abnn.network import AdaptiveNetwork, Network, PixelNetwork
from abnn_serve.lab.attacks.base import Model

ServedLogits = Callable[[NDArray[np.uint8]], NDArray[np.float32]]  # uint8 (N, [T,] H, W, 3) to logits (N, classes)

MEANINGS: dict[ThreatModel, str] = {
    "transfer": "made on the undefended twin",
    "substitute-transfer": "made on a linear probe of the public substitute, without the target",
    "graybox": "gradient through the target only; the substitute's statistics are recomputed and not differentiated",
    "whitebox": "gradient through both networks",
    "blackbox": "queries to the served bundle",
    "artifact": "made through both networks, rounded to uint8, judged again on the exported file",
}


class DetachedStatistics(nn.Module):
    """An adaptive network whose substitute gives its statistics and no gradient: the graybox attacker's view."""

    def __init__(self, network: AdaptiveNetwork) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        """Logits equal to the network's own."""
        with torch.no_grad():
            statistics = self.network.statistics(x)
        return self.network(x, statistics)  # type: ignore[no-any-return]


@dataclass(frozen=True, slots=True)
class ServedModel:
    """A served model as an attacker sees it: pixels are rounded to uint8 on the way, and there is no gradient."""

    logits: ServedLogits

    def __call__(self, x: Tensor) -> Tensor:
        """Float (N, 3, H, W) in [0, 1] to logits (N, classes)."""
        return torch.from_numpy(self.logits(to_uint8(x))).to(x.device)


def to_uint8(x: Tensor) -> NDArray[np.uint8]:
    """Float (N, 3, [T,] H, W) in [0, 1] to the nearest uint8 (N, [T,] H, W, 3)."""
    pixels: NDArray[np.uint8] = (x.detach() * 255).round().to(torch.uint8).movedim(1, -1).cpu().numpy()
    return pixels


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """What is evaluated, and what its attackers may hold.

    Attributes:
        network: the defended network, or a plain one; None where only the served bundle is at hand.
        twin: the undefended network of the same architecture, for `transfer`.
        probe: a classifier made from the substitute alone, for `substitute-transfer`.
        served: the exported bundle's logits, for `blackbox` and `artifact`.
        served_digest: the bundle's identity.
    """

    network: Network | None
    twin: PixelNetwork | None = None
    probe: PixelNetwork | None = None
    served: ServedLogits | None = None
    served_digest: str = ""

    @property
    def threat_models(self) -> tuple[ThreatModel, ...]:
        """Those that can be evaluated with what is at hand, white-box first."""
        there: dict[ThreatModel, bool] = {
            "whitebox": self.network is not None,
            "graybox": isinstance(self.network, AdaptiveNetwork),
            "transfer": self.twin is not None,
            "substitute-transfer": self.probe is not None,
            "blackbox": self.served is not None,
            "artifact": self.served is not None and self.network is not None,
        }
        return tuple(threat for threat, is_there in there.items() if is_there)

    def attacked(self, threat: ThreatModel) -> Model:
        """The model that the attack is run on; ConfigError where it is missing."""
        if threat not in self.threat_models:
            raise ConfigError(f"threat model {threat!r} ({MEANINGS[threat]}) cannot be evaluated: {_MISSING[threat]}")
        if threat == "graybox" and isinstance(self.network, AdaptiveNetwork):
            return DetachedStatistics(self.network)
        if threat == "blackbox" and self.served is not None:
            return ServedModel(self.served)
        held = {"transfer": self.twin, "substitute-transfer": self.probe}.get(threat)
        return held or self.own

    @property
    def own(self) -> Model:
        """The subject as it answers: the network, or where there is none what is served."""
        if self.network is not None:
            return self.network
        if self.served is not None:
            return ServedModel(self.served)
        raise ConfigError("nothing to evaluate; give a finished run or a bundle")

    def judge(self, threat: ThreatModel) -> Model:
        """The model whose answer decides whether an attack succeeded."""
        if threat in ("blackbox", "artifact") and self.served is not None:
            return ServedModel(self.served)
        return self.own

    def is_final(self, threat: ThreatModel) -> bool:
        """The attacked model's answers are the judge's, so that an attack may stop at its first success."""
        return threat in ("whitebox", "graybox", "blackbox")

    def check_whitebox(self, x: Tensor) -> None:
        """ConfigError if the network's gradient does not run through its substitute, on x, float (N, 3, H, W)."""
        if not isinstance(self.network, AdaptiveNetwork):
            return
        error = float(gradient_error(self.network, x).median())
        if error > TOLERANCE:
            raise ConfigError(
                f"this is not a white-box evaluation: the gradient is off by {error:.0%} from finite differences, so a "
                "path to the logits (the substitute's?) is detached; evaluate the plain AdaptiveNetwork"
            )


_MISSING: dict[ThreatModel, str] = {
    "transfer": "give the undefended twin with --twin RUN",
    "substitute-transfer": "give a probe of the substitute with --probe RUN",
    "graybox": "there is no substitute, or no --run",
    "whitebox": "give the run that the bundle was exported from with --run",
    "blackbox": "give the exported bundle",
    "artifact": "give the exported bundle, and its run with --run",
}
