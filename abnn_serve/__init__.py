"""Train, attack, export and serve image and video classifiers defended by ABNN, each bundle with its measured robustness.

Importing this loads neither torch nor bentoml; each public name is loaded when it is first used.
"""  # noqa: E501

from __future__ import annotations

import importlib
import os
from typing import TYPE_CHECKING, Any

from abnn_serve.version import __version__ as __version__

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # read when ONNX Runtime is imported; 1.31 reports by default

if TYPE_CHECKING:
    from abnn_serve.bundle.store import load_bundle
    from abnn_serve.card import RobustnessCard
    from abnn_serve.errors import AbnnError
    from abnn_serve.evaluation.evaluate import evaluate
    from abnn_serve.export.bundle import export_bundle
    from abnn_serve.lab.abnn.plan import SurgeryPlan
    from abnn_serve.lab.networks.zoo import build_network
    from abnn_serve.lab.training.train import train
    from abnn_serve.runtime.predictions import Prediction
    from abnn_serve.runtime.predictor import Predictor
    from abnn_serve.spec import InputSpec

_HOME = {
    "AbnnError": "abnn_serve.errors",
    "InputSpec": "abnn_serve.spec",
    "Prediction": "abnn_serve.runtime.predictions",
    "Predictor": "abnn_serve.runtime.predictor",
    "RobustnessCard": "abnn_serve.card",
    "SurgeryPlan": "abnn_serve.lab.abnn.plan",
    "build_network": "abnn_serve.lab.networks.zoo",
    "evaluate": "abnn_serve.evaluation.evaluate",
    "export_bundle": "abnn_serve.export.bundle",
    "load_bundle": "abnn_serve.bundle.store",
    "train": "abnn_serve.lab.training.train",
}

__all__ = [
    "AbnnError",
    "InputSpec",
    "Prediction",
    "Predictor",
    "RobustnessCard",
    "SurgeryPlan",
    "build_network",
    "evaluate",
    "export_bundle",
    "load_bundle",
    "train",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
