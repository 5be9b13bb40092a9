"""Checks that every graph of a bundle runs on this machine and reproduces the golden vectors."""

from __future__ import annotations

from abnn_serve.bundle.store import Bundle
from abnn_serve.runtime.drift import DRIFT_FILE, DriftMeter
from abnn_serve.runtime.session import Session


def check_graphs(bundle: Bundle) -> None:
    """Load every graph of a bundle on the CPU and replay its golden vectors.

    Raises:
        AbnnError: as `Session` and `DriftMeter`.
    """
    for precision in bundle.manifest.precisions:
        if precision != "bf16":  # bf16 uses the fp32 graph
            session = Session(bundle, "cpu", precision=precision)
            if precision == "fp32" and DRIFT_FILE in bundle.manifest.files:
                DriftMeter(session)
