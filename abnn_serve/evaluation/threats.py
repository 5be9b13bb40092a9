"""Threat models: the model that an attacker differentiates or queries, and the model that judges its images."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from abnn_serve.answer import Answer
from abnn_serve.card import ThreatModel
from abnn_serve.errors import ConfigError
from abnn_serve.evaluation.detached import detached, has_substitute
from abnn_serve.evaluation.gradient_check import TOLERANCE, gradient_error
from abnn_serve.evaluation.served import ServedLogits, ServedModel
from abnn_serve.evaluation.through_rule import AnsweringNetwork, attacked_through
from abnn_serve.lab.abnn.network import Network, PixelNetwork, ServedNetwork, in_fast_layout
from abnn_serve.lab.attacks.adaptive import ExpectedNetwork, StraightThroughNetwork
from abnn_serve.lab.attacks.base import Model
from abnn_serve.runtime.rules.base import Rule
from abnn_serve.runtime.rules.choose import make_rule

MEANINGS: dict[ThreatModel, str] = {
    "transfer": "images attacked on the undefended twin",
    "substitute-transfer": "images attacked on a linear probe of the public substitute, without the target",
    "graybox": "gradients through the target only; the substitute's statistics are recomputed but not differentiated",
    "whitebox": "gradients through both networks",
    "blackbox": "queries to the served bundle, without gradients",
    "artifact": "white-box images, rounded to uint8 and judged on the exported file",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """The classifier under evaluation, and the models that its attackers may have.

    Attributes:
        network: the defended network, or a plain one; None if only the served bundle is available.
        twin: the undefended network of the same architecture, for `transfer`.
        probe: a classifier made from the substitute alone, for `substitute-transfer`.
        served: the exported bundle's logits, for `blackbox` and `artifact`.
        served_digest: sha256 of the served graph; "" without one.
        answer: the bundle's answer rule, through which `network` is attacked and judged; None for one plain pass.
        size: height and width of the input in pixels, for the rule.
        served_judges: the served model judges every attack, and `network` only supplies gradients.
        labels_only: the served model tells classes alone; its logits are 0 and -1.
        batch: samples that are attacked together; 0 for the default.
        straight_through: attackers differentiate rounding and signs as the identity.
        draws: of a random network, over which attackers take the mean; a random served model's answers are such means.
    """

    network: Network | None
    twin: PixelNetwork | None = None
    probe: PixelNetwork | None = None
    served: ServedLogits | None = None
    served_digest: str = ""
    answer: Answer | None = None
    size: tuple[int, int] = (0, 0)
    served_judges: bool = False
    labels_only: bool = False
    batch: int = 0
    straight_through: bool = False
    draws: int = 1

    @property
    def threat_models(self) -> tuple[ThreatModel, ...]:
        """The available threat models, white-box first."""
        available: dict[ThreatModel, bool] = {
            "whitebox": self.network is not None,
            "graybox": self.network is not None and has_substitute(self.network),
            "transfer": self.twin is not None,
            "substitute-transfer": self.probe is not None,
            "blackbox": self.served is not None,
            "artifact": self.served is not None and self.network is not None and not self.served_judges,
        }
        return tuple(threat for threat, is_available in available.items() if is_available)

    def move(self, device: str) -> None:
        """Put the networks on a torch device, in eval mode and their fastest layout."""
        for network in (self.network, self.twin, self.probe):
            if network is not None:
                in_fast_layout(network).to(device).eval()

    def attacked(self, threat: ThreatModel) -> Model:
        """The model that the attack differentiates or queries; ConfigError if the threat model is unavailable."""
        if threat not in self.threat_models:
            raise ConfigError(f"threat model {threat!r} ({MEANINGS[threat]}) is unavailable: {_REMEDIES[threat]}")
        if threat in ("whitebox", "artifact", "graybox") and self.network is not None:
            network = detached(self.network) if threat == "graybox" else self.network
            return attacked_through(self._adaptive(network), self._rule)
        if threat == "blackbox" and self.served is not None:
            return ServedModel(self.served)
        surrogate = {"transfer": self.twin, "substitute-transfer": self.probe}.get(threat)
        return surrogate or self.model

    @property
    def differentiated(self) -> nn.Module | None:
        """The network with the gradient that white-box attackers use, for a single pass; None without a network."""
        return None if self.network is None else self._adaptive(self.network)

    def _adaptive(self, network: nn.Module) -> nn.Module:
        if self.straight_through:
            network = StraightThroughNetwork(network)
        return ExpectedNetwork(network, self.draws).eval() if self.draws > 1 else network.eval()

    @property
    def _rule(self) -> Rule | None:
        return make_rule(self.answer, self.size) if self.answer else None

    @property
    def logits(self) -> ServedLogits:
        """Logits of single passes, without the rule; uint8, or float32 in the same units, to (N, classes)."""
        if self.network is None:
            raise ConfigError("the subject has no network; give the run with --run RUN")
        served = ServedNetwork(self.network).eval()
        device = next(self.network.parameters()).device

        @torch.no_grad()
        def run(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
            return served(torch.from_numpy(pixels).to(device)).cpu().numpy()  # type: ignore[no-any-return]

        return run

    @property
    def model(self) -> Model:
        """The network through the rule, or without a network the served model."""
        if self.network is not None:
            if self.answer and self.answer.noise:
                return AnsweringNetwork(self.network, make_rule(self.answer, self.size))
            return attacked_through(self.network, self._rule)
        if self.served is not None:
            return ServedModel(self.served)
        raise ConfigError("the subject has neither a network nor a served bundle; give a finished run or a bundle")

    @property
    def clean_judge(self) -> Model:
        """The model whose classes give the clean accuracy."""
        return ServedModel(self.served) if self.served_judges and self.served is not None else self.model

    def judge(self, threat: ThreatModel) -> Model:
        """The model whose classes decide whether an attack succeeded."""
        if self.served_judges and self.served is not None:
            return ServedModel(self.served)
        if threat in ("blackbox", "artifact") and self.served is not None:
            return ServedModel(self.served)
        return self.model

    def is_final(self, threat: ThreatModel) -> bool:
        """Whether the attacked model and the judge give the same classes: an attack may then stop at a success."""
        if self.served_judges:
            return threat == "blackbox"
        is_random = self.draws > 1 or bool(self.answer and self.answer.noise)
        return threat in ("whitebox", "graybox", "blackbox") and not is_random

    def check_whitebox(self, x: Tensor) -> None:
        """ConfigError if gradients do not pass through the substitute, on x, float (N, 3, [T,] H, W) in [0, 1]."""
        if self.network is None or not has_substitute(self.network):
            return
        error = float(gradient_error(self.network, x).median())
        if error > TOLERANCE:
            raise ConfigError(
                f"not a white-box evaluation: the gradient differs by {error:.0%} from finite differences, so a path "
                "to the logits, perhaps the substitute's, is detached; evaluate the plain AdaptiveNetwork"
            )


_REMEDIES: dict[ThreatModel, str] = {
    "transfer": "give the undefended twin with --twin RUN",
    "substitute-transfer": "give a probe of the substitute with --probe RUN",
    "graybox": "it needs a network with a substitute; for a bundle without weights, give its run with --run RUN",
    "whitebox": "give a bundle with weights, or the run that it was exported from with --run RUN",
    "blackbox": "give an exported bundle",
    "artifact": "give an exported bundle and, if it has no weights, its run with --run RUN",
}
