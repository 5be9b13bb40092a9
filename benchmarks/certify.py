"""What do answers by double masking cost, and their certificates, relative to one plain answer?

python -m benchmarks.certify
python -m benchmarks.certify --out benchmarks/results/certify-cpu

Plain and masked answers take turns in one run, on one thread, in ONNX Runtime, by CPU time: of resnet10-w16 at 32 px
against patches of 5 x 5 pixels, and of torchvision's resnet18 at 224 px against patches of 32 x 32, both with k = 3.
The weights are random and one class has a bias, so that the masks agree. These are the passes alone; whole answers,
from an encoded image to a prediction, are those of `models/cifar10-masks` with k = 3 and without its rule.
"""

from __future__ import annotations

import time

import numpy as np
import torch
from torch import nn

from abnn_serve.answer import Masks
from abnn_serve.export.graph import export_graph
from abnn_serve.runtime.predictor import Predictor
from abnn_serve.runtime.providers import open_engine
from abnn_serve.runtime.rules.base import answer_all
from abnn_serve.runtime.rules.masks import MaskRule
from abnn_serve.runtime.rules.plain import PlainRule
from abnn_serve.runtime.settings import default_bundle
from abnn_serve.spec import InputSpec
from benchmarks.common.command import add_out_option, new_parser, run
from benchmarks.common.images import smooth_jpeg
from benchmarks.common.report import Bar, write_record
from benchmarks.common.timing import Call, interleaved, medians
from benchmarks.pair.graphs import random_networks

_CASES = (("resnet10-w16", 32, 5, 10, 6.0), ("resnet18", 224, 32, 1000, 9.0))
_FILL = (124, 116, 104)
_BIAS = 1000.0
_PASSES, _CERTIFICATE_PASSES = 9, 46


def main() -> list[Bar]:
    """Time all cases, print and write the results."""
    parser = new_parser("certify", __doc__)
    parser.add_argument("--seconds", type=float, default=10.0, help="seconds for each size")
    add_out_option(parser)
    options = parser.parse_args()
    torch.set_num_threads(1)
    bars, figures = [], {}
    for name, size, patch, classes, limit in _CASES:
        setting = f"1x{size}x{size}"
        seconds, passes = _measure(name, size, patch, classes, options.seconds)
        times = medians(seconds)
        figures[setting] = {"network": name, "patch": patch, "passes": passes, "seconds": seconds}
        for case, median in times.items():
            print(f"{setting:>10}  {case:<12} {passes[case]:3} passes  {1000 * median:8.2f} ms")
        bars += [
            Bar(name="passes of a masked answer", setting=setting, value=passes["masks"], limit=_PASSES),
            Bar(
                name="passes of a certificate", setting=setting, value=passes["certificate"], limit=_CERTIFICATE_PASSES
            ),
            Bar(
                name="masked answer / plain answer", setting=setting, value=times["masks"] / times["plain"], limit=limit
            ),
        ]
    whole = _whole_answers(options.seconds)
    figures["encoded 32x32"] = {"network": "cifar10-masks", "patch": 5, "seconds": whole}
    times = medians(whole)
    for case, median in times.items():
        print(f"   encoded  {case:<12} {1000 * median:19.2f} ms")
    bars.append(
        Bar(
            name="masked answer / plain answer, whole",
            setting="1x32x32",
            value=times["masks"] / times["plain"],
            limit=_CASES[0][-1],
        )
    )
    if options.out:
        write_record(options.out, vars(options), bars, cases=figures)
    return bars


def _measure(
    name: str, size: int, patch: int, classes: int, seconds: float
) -> tuple[dict[str, list[float]], dict[str, int]]:
    """Seconds of every answer, and the passes of one, by case."""
    engine = open_engine(_graph(name, size, classes), "cpu", 1)
    image = np.random.default_rng(0).integers(0, 256, (1, size, size, 3), dtype=np.uint8)
    rule, plain = MaskRule(Masks(patch=(patch, patch), k=3, fill=_FILL), (size, size)), PlainRule()
    cases: dict[str, Call] = {
        "plain": lambda: answer_all(plain, image, engine.run),
        "masks": lambda: answer_all(rule, image, engine.run),
        "certificate": lambda: answer_all(rule, image, engine.run, certify=True),
    }
    masked, certified = (answer_all(rule, image, engine.run, certify=certify) for certify in (False, True))
    passes = {"plain": 1, "masks": masked[0].passes, "certificate": certified[0].passes}
    return interleaved(cases, seconds, clock=time.process_time), passes


def _whole_answers(seconds: float) -> dict[str, list[float]]:
    """Seconds of every answer to an encoded image on which the masks agree, by case."""
    masked, plain = (Predictor.open(default_bundle("cifar10-masks"), device="cpu", threads=1) for _ in range(2))
    masked.rule, plain.rule = MaskRule(Masks(patch=(5, 5), k=3, fill=_FILL), (32, 32)), PlainRule()
    images = (smooth_jpeg(32, np.random.default_rng(seed)) for seed in range(1000))
    image = next(data for data in images if masked.answers(masked.decode(data)[None])[0].passes == _PASSES)
    cases: dict[str, Call] = {
        "plain": lambda: plain.predict(plain.decode(image)[None]),
        "masks": lambda: masked.predict(masked.decode(image)[None]),
    }
    return interleaved(cases, seconds, clock=time.process_time)


def _graph(name: str, size: int, classes: int) -> bytes:
    network, _ = random_networks(name, classes, (3, size, size))
    head = [module for module in network.modules() if isinstance(module, nn.Linear)][-1]
    with torch.no_grad():
        head.bias[0] += _BIAS
    return export_graph(network, InputSpec(height=size, width=size))


if __name__ == "__main__":
    run("certify", main)
