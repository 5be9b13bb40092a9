"""How does the service behave under malformed requests, overload, SIGTERM and the loss of its worker?

python -m benchmarks.hostile --data ../shared/data --out benchmarks/results/hostile-cpu
python -m benchmarks.hostile --only sigterm --times 20

Each trial attacks a real server process and holds it to what a service on the internet must do.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from abnn_serve.runtime.settings import DEFAULT_VIDEO_BUNDLE, default_bundle
from benchmarks.common.command import add_out_option, new_parser, run
from benchmarks.common.report import Bar, write_record
from benchmarks.trials.aimed import aimed
from benchmarks.trials.malformed import malformed
from benchmarks.trials.neighbours import neighbours
from benchmarks.trials.overload import FILLING, FLOODS, overload
from benchmarks.trials.requests import KINDS
from benchmarks.trials.service import Result
from benchmarks.trials.sigterm import sigterm
from benchmarks.trials.worker import worker

TRIALS: dict[str, Callable[[argparse.Namespace, Path], Result]] = {
    "malformed": malformed,
    "aimed": aimed,
    "neighbours": neighbours,
    "worker": worker,
    "sigterm": sigterm,
    "overload": overload,
}


def main() -> list[Bar]:
    """Run the trials, print and write the results."""
    options = _options()
    bars: list[Bar] = []
    figures: dict[str, dict[str, Any]] = {}
    for name in options.only or TRIALS:
        with tempfile.TemporaryDirectory() as folder:
            trial_bars, figures[name] = TRIALS[name](options, Path(folder))
        print(f"{name}: {'passed' if all(bar.passed for bar in trial_bars) else 'MISSED'}", flush=True)
        for key, value in figures[name].items():
            print(f"    {key}: {value}", flush=True)
        bars += [replace(bar, setting=name) for bar in trial_bars]
    if options.out:
        write_record(options.out, vars(options), bars, trials=figures)
    return bars


def _options() -> argparse.Namespace:
    parser = new_parser("hostile", __doc__)
    parser.add_argument("--only", choices=sorted(TRIALS), action="append", help="run one trial (repeatable)")
    parser.add_argument("--bundle", type=Path, default=default_bundle())
    parser.add_argument("--video-bundle", type=Path, default=default_bundle(DEFAULT_VIDEO_BUNDLE))
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="folder that holds odd-media/")
    parser.add_argument("--requests", type=int, default=10_000, help="number of malformed requests")
    parser.add_argument("--kind", choices=KINDS, help="send malformed requests of this kind only")
    parser.add_argument("--seconds", type=float, default=60, help=f"seconds of overload, in {FLOODS} floods")
    parser.add_argument("--times", type=int, default=20, help="how often SIGTERM is sent")
    parser.add_argument("--operated", action="store_true", help="with shadow, canary, drift, near-duplicates and spans")
    parser.add_argument("--batches", type=int, default=1000, help="batches with hostile neighbours")
    add_out_option(parser)
    options = parser.parse_args()
    if options.seconds <= FLOODS * FILLING:
        parser.error(
            f"--seconds is {options.seconds:g}, expected more than {FLOODS * FILLING:g}: the queue needs "
            f"{FILLING:g} s of each flood to fill"
        )
    return options


if __name__ == "__main__":
    run("hostile", main)
