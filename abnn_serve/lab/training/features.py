"""Features of a network, and how far two networks disagree about which images are alike."""

from __future__ import annotations

from torch import Tensor, nn

from abnn_serve.errors import ConfigError
from abnn_serve.lab.abnn.mixture import MixtureNetwork
from abnn_serve.lab.abnn.network import Network
from abnn_serve.lab.training.freezing import head_of


class FeatureTap:
    """Records the features of each forward of `network`: what its classifier receives, of an ABNN its target's.

    Attributes:
        features: float32 (N, K), K features of each image; clips of S3D have (N, K, T, 1, 1), flattened.
    """

    def __init__(self, network: Network) -> None:
        if isinstance(network, MixtureNetwork):
            raise ConfigError("a mixture has the features of two networks; give one of its halves as the teacher")
        self.features: Tensor | None = None
        head_of(network).register_forward_pre_hook(self._record)

    def _record(self, _: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        self.features = inputs[0].flatten(1).float()


def dissimilarity(features: Tensor, others: Tensor) -> Tensor:
    """Distance between two networks' similarities of the images in a batch (Tung & Mori, ICCV 2019).

    Row i of G = F F^T, scaled to length 1, says how similar image i is to each image. The distance is
    ||G - G'||^2 / N, a scalar in [0, 4]. The networks' features, (N, K) and (N, K'), may differ in number.
    """
    own, other = (nn.functional.normalize(f @ f.T, dim=1) for f in (features, others))
    distance: Tensor = (own - other).square().sum() / len(features)
    return distance
