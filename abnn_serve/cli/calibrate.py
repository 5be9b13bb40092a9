"""abnn calibrate: fit a bundle's temperature, and set the probability below which it abstains."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from abnn_serve.bundle.store import load_bundle
from abnn_serve.cli.extras import require_lab
from abnn_serve.cli.show import calibration_rows
from abnn_serve.cli.terminal import echo


def calibrate(
    bundle: Annotated[Path, typer.Argument(help="directory of the bundle, which is changed")],
    data: Annotated[str, typer.Option(help="images or videos that the network was not trained on")],
    abstain_below: Annotated[
        float | None, typer.Option(help="probability below which the bundle abstains", min=0.0, max=1.0)
    ] = None,
) -> None:
    """Calibrate a bundle's probabilities by a temperature.

    They come near the share of correct answers, and the predicted classes stay the same. The digest changes, and a
    signature is removed.

    Example: abnn calibrate models/mine --data data/test.parquet --abstain-below 0.5
    """
    require_lab()
    from abnn_serve.export.calibration import calibrate as calibrate_bundle
    from abnn_serve.lab.data.load import load_data

    loaded = load_bundle(bundle)
    calibrated = calibrate_bundle(loaded, load_data(data, loaded.manifest.input), abstain_below=abstain_below)
    for name, value in calibration_rows(calibrated):
        echo(f"{name:<11} {value}")
    echo(f"identity    {calibrated.digest}")
