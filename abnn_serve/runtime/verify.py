"""Whether every graph of a bundle runs here and gives what was recorded."""

from __future__ import annotations

from abnn_serve.bundle.store import Bundle
from abnn_serve.runtime.drift import DRIFT_FILE, DriftMeter
from abnn_serve.runtime.session import Session


def check_graphs(bundle: Bundle) -> None:
    """Load every graph of a bundle on the CPU and replay the golden vectors; what `Session` and `DriftMeter` raise."""
    for precision in bundle.manifest.precisions:
        if precision != "bf16":  # the fp32 graph once more
            session = Session(bundle, "cpu", precision=precision)
            if precision == "fp32" and DRIFT_FILE in bundle.manifest.files:
                DriftMeter(session)
