"""What does an answer of each bundle cost, beside the accuracy that it keeps under attack?

python -m benchmarks.bundles
python -m benchmarks.bundles models/cifar10-abnn-robust old/cifar10-abnn-robust --out benchmarks/results/bundles-cpu

Every precision on every engine of this machine's CPU answers one sample in turn, on one thread, by CPU time: from the
decoded sample to the prediction, by the bundle's rule. Accuracies are those of the bundle's card. The bars are for the
default bundle.
"""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path

from abnn_serve.bundle.store import Bundle, load_bundle
from abnn_serve.runtime.predictor import Predictor
from abnn_serve.runtime.session import Session
from abnn_serve.runtime.settings import Device, default_bundle
from benchmarks.common.command import add_out_option, new_parser, run
from benchmarks.common.report import Bar, write_record
from benchmarks.common.timing import Call, interleaved, medians

_MOST_MS, _MOST_MB = 3.0, 25.0
_KEY = bytes(32)  # of noise


@dataclass(frozen=True, slots=True)
class Row:
    """A bundle on one engine: milliseconds of an answer, megabytes, accuracies in percent; None is not measured."""

    bundle: str
    engine: str
    milliseconds: float
    megabytes: float
    clean: float | None
    attacked: float | None

    def __str__(self) -> str:
        accuracies = ("    -" if share is None else f"{share:5.1f}" for share in (self.clean, self.attacked))
        size = f"{self.milliseconds:8.2f} ms {self.megabytes:6.1f} MB"
        return f"{self.bundle:32} {self.engine:14} {size}  clean, white-box: {' '.join(accuracies)}"


def main() -> list[Bar]:
    """Time all bundles, print and write the results."""
    parser = new_parser("bundles", __doc__)
    parser.add_argument("bundles", nargs="*", type=Path, help="bundles (default all of models/ that classify images)")
    parser.add_argument("--seconds", type=float, default=20.0, help="seconds for all of them")
    add_out_option(parser)
    options = parser.parse_args()
    bundles = [load_bundle(path) for path in options.bundles or _shipped()]
    subjects = [(bundle, engine, call) for bundle in bundles for engine, call in _answers(bundle).items()]
    calls = {str(at): call for at, (_, _, call) in enumerate(subjects)}
    times = medians(interleaved(calls, options.seconds, clock=time.process_time))
    rows = [
        _row(bundle, engine, 1000 * median)
        for (bundle, engine, _), median in zip(subjects, times.values(), strict=True)
    ]
    print("\n".join(map(str, rows)))
    default = [row for row in rows if row.bundle == _title(load_bundle(default_bundle()))]
    bars = [Bar(name="answer, ms", setting=row.engine, value=row.milliseconds, limit=_MOST_MS) for row in default]
    bars += [Bar(name="bundle, MB", value=row.megabytes, limit=_MOST_MB) for row in default[:1]]
    if options.out:
        write_record(options.out, {"seconds": options.seconds}, bars, rows=[asdict(row) for row in rows])
    return bars


def _shipped() -> list[Path]:
    paths = sorted(path.parent for path in Path("models").glob("*/bundle.json"))
    return [path for path in paths if load_bundle(path).manifest.input.modality == "image"]


def _answers(bundle: Bundle) -> dict[str, Call]:
    """An answer to the first golden sample, by precision and engine."""
    devices: tuple[Device, ...] = ("cpu", "openvino") if find_spec("openvino") else ("cpu",)
    calls: dict[str, Call] = {}
    for precision in bundle.manifest.precisions:
        for device in devices:
            predictor = Predictor(Session(bundle, device, 1, precision), noise_key=_KEY)
            calls[f"{precision} {device}"] = lambda predictor=predictor: predictor.predict(bundle.golden.inputs[:1])  # type: ignore[misc]
    return calls


def _row(bundle: Bundle, engine: str, milliseconds: float) -> Row:
    card = bundle.card
    clean, attacked = (card.clean, card.worst.get("whitebox")) if card else (None, None)
    size = sum(file.bytes for file in bundle.manifest.files.values()) / 1e6
    percents = (None if share is None else 100 * share.value for share in (clean, attacked))
    return Row(_title(bundle), engine, milliseconds, size, *percents)


def _title(bundle: Bundle) -> str:
    return f"{bundle.manifest.name} {bundle.manifest.version}"


if __name__ == "__main__":
    run("bundles", main)
