"""How many images a second does each recipe train?

python -m benchmarks.steps --device cuda --out benchmarks/results/steps-cuda
python -m benchmarks.steps --network resnet8s-w4 --batch-size 16 --recipes standard abnn

Each recipe trains in the loop of `abnn train`, on random images, for two epochs of --steps steps, of which the second
counts. Recipes that start from a run start from those of `standard` and `abnn`, which are trained too.
"""

from __future__ import annotations

import argparse
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np

from abnn_serve.lab.data.dataset import ImageData
from abnn_serve.lab.device import describe_device, pick_device
from abnn_serve.lab.training.assemble import assemble
from abnn_serve.lab.training.loop import fit
from abnn_serve.lab.training.recipes import RECIPES
from abnn_serve.lab.training.request import TrainRequest
from abnn_serve.lab.training.run import Run
from abnn_serve.spec import InputSpec, Labels
from benchmarks.common.command import add_out_option, new_parser, run
from benchmarks.common.report import Bar, gpu_record, write_record

_SIZE, _CLASSES, _VALIDATION = 32, 10, 64
_PLAIN, _ADAPTIVE = "standard", "abnn"


def main() -> list[Bar]:
    """Train each recipe; print and write its images per second."""
    options = _options()
    device = pick_device(options.device)
    speeds = measure(options, device)
    if options.out:
        settings = {**vars(options), "device": describe_device(device)}
        figures = {**gpu_record(device), "images_per_second": speeds}
        write_record(options.out, settings, [], **figures)
    return []


def measure(options: argparse.Namespace, device: str) -> dict[str, float]:
    """Images per second by recipe, in the second epoch."""
    data = _noise(options.steps * options.batch_size)
    val, speeds = _noise(_VALIDATION), {}
    with tempfile.TemporaryDirectory() as scratch:
        for name in with_requirements(options.recipes):
            request = _request(name, options, Path(scratch))
            config, network = assemble(request, data, val, device=device)
            trained = Run(Path(scratch) / name)
            trained.path.mkdir()
            trained.write_config(config)
            fit(trained, network, data, val, device=device, compiled=options.compile)
            speeds[name] = float(trained.metrics[-1]["images_per_second"])
            print(f"{name:<16} {speeds[name]:>10,.0f} images/s", flush=True)
    return speeds


def with_requirements(names: list[str]) -> list[str]:
    """The recipes with those that they start from, which come first."""
    return [_PLAIN, _ADAPTIVE, *(name for name in names if name not in (_PLAIN, _ADAPTIVE))]


def _request(name: str, options: argparse.Namespace, runs: Path) -> TrainRequest:
    recipe = RECIPES[name]
    init = None
    if recipe.fine_tunes:
        init = str(runs / (_ADAPTIVE if recipe.adaptive else _PLAIN))
    return TrainRequest(
        recipe=replace(recipe, epochs=2, batch_size=options.batch_size),
        data="noise",
        val="noise",
        target=None if init else options.network,
        init=init,
        substitute=str(runs / _PLAIN) if recipe.adaptive and not init else None,
        input=InputSpec(height=_SIZE, width=_SIZE),
    )


def _noise(count: int) -> ImageData:
    rng = np.random.default_rng(count)
    return ImageData(
        source="noise",
        images=rng.integers(0, 256, (count, _SIZE, _SIZE, 3), dtype=np.uint8),
        labels=rng.integers(0, _CLASSES, count),
        classes=Labels(names=tuple(f"class {i}" for i in range(_CLASSES))),
    )


def _options() -> argparse.Namespace:
    parser = new_parser("steps", __doc__)
    parser.add_argument("--network", default="cifar-resnet18", help="target and substitute, as abnn train takes it")
    parser.add_argument("--recipes", nargs="+", choices=list(RECIPES), default=list(RECIPES), help="default: all")
    parser.add_argument("--steps", type=int, default=50, help="steps of an epoch")
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--compile", action="store_true", help="compile the networks")
    add_out_option(parser)
    return parser.parse_args()


if __name__ == "__main__":
    run("steps", main)
