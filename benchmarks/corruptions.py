"""Do networks differ in accuracy under common corruptions by more than chance?

python -m benchmarks.corruptions --data DATA --baseline twin --subjects 'twin 1=runs/twin1' 'linear 1=runs/linear1'

All subjects, runs or bundles, classify the same images under the fifteen corruptions of Hendrycks & Dietterich (2019)
at five severities. A number behind a name is a training seed: subjects that differ in it alone are one row, the mean
over their seeds. Differences from the baseline are paired by image. Intervals are 95%, over images. Prints a table in
Markdown, in percent. Subjects that the file of --out already has are kept.

The control without a substitute: TWIN=runs/twin abnn train standard --target
benchmarks.baselines.instance_norm:from_twin ...
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from abnn_serve.card.accuracy import Z95
from abnn_serve.errors import ConfigError
from abnn_serve.evaluation.corruptions.constants import CORRUPTIONS, SEVERITIES
from abnn_serve.evaluation.corruptions.measure import answering_model, correct_under
from abnn_serve.evaluation.subject import open_subject
from abnn_serve.lab.attacks.base import is_correct
from abnn_serve.lab.data.load import agree, load_data
from abnn_serve.lab.training.batches import to_input
from benchmarks.common.command import add_out_option, new_parser, run
from benchmarks.common.report import Bar, write_record

FAMILIES = {"noise": slice(0, 3), "blur": slice(3, 7), "weather": slice(7, 11), "digital": slice(11, 15)}

Row = dict[str, Any]


def main() -> list[Bar]:
    """Measure every subject, print and write the results; there are no bars."""
    parser = new_parser("corruptions", __doc__)
    parser.add_argument("--data", required=True, help="labelled test images")
    parser.add_argument("--subjects", nargs="+", required=True, metavar="NAME=PATH", help="runs and bundles")
    parser.add_argument("--baseline", required=True, help="name, without seed, that the others are compared with")
    parser.add_argument("-n", type=int, default=300, help="images, evenly spaced")
    add_out_option(parser)
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = _kept(options.out, options.n)
    paths = dict(_named(text) for text in options.subjects)
    missing = {name: path for name, path in paths.items() if name not in [row["name"] for row in rows]}
    rows += measure(missing, options.data, options.n)
    if options.baseline not in [kind(row) for row in rows]:
        raise ConfigError(f"--baseline is {options.baseline!r}, expected one of {', '.join(map(kind, rows))}")
    if options.out:
        write_record(options.out, {"images": options.n, "baseline": options.baseline}, rows=rows)
    print(table(rows, options.baseline))
    return []


def _named(text: str) -> tuple[str, str]:
    name, _, path = text.partition("=")
    if not path:
        raise ConfigError(f"--subjects has {text!r}, expected NAME=PATH, such as 'twin 51=runs/twin51'")
    return name, path


def _kept(out: Path | None, images: int) -> list[Row]:
    file = out.with_suffix(".json") if out else None
    if not file or not file.is_file():
        return []
    record = json.loads(file.read_text())
    if (before := record["settings"]["images"]) != images:
        raise ConfigError(f"{file} is of {before} images, and -n is {images}; choose another --out")
    rows: list[Row] = record["rows"]
    return rows


def measure(paths: dict[str, str], data: str, images: int) -> list[Row]:
    """A row for each subject: accuracies, and for each image how many of the 75 corrupted ones are correct."""
    if not paths:
        return []
    opened = {name: open_subject(path) for name, path in paths.items()}
    first = next(iter(opened.values()))
    dataset = agree(first.labels, load_data(data, first.input))
    for each in opened.values():
        each.check_data(dataset)
        if (each.input, each.labels) != (first.input, first.labels):
            raise ConfigError(f"--subjects: {', '.join(paths)} have other inputs or classes; measure them apart")
    subset = dataset.spread(images)
    models = [answering_model(each.subject) for each in opened.values()]
    flags = []
    for number, name in enumerate(CORRUPTIONS, start=1):
        print(f"{number}/{len(CORRUPTIONS)} {name}", file=sys.stderr)
        flags.append(correct_under(models, subset, name))
    x, y = to_input(subset.images), torch.from_numpy(subset.labels)
    correct = np.stack(flags)  # (corruptions, severities, models, N)
    return [
        {
            "name": name,
            "clean": float(is_correct(model, x, y).float().mean()),
            "accuracy": dict(zip(CORRUPTIONS, correct[:, :, at].mean(axis=2).tolist(), strict=True)),
            "correct_of_75": correct[:, :, at].sum(axis=(0, 1)).tolist(),
        }
        for at, (name, model) in enumerate(zip(opened, models, strict=True))
    ]


def kind(row: Row) -> str:
    """The name without its seed."""
    name, _, seed = str(row["name"]).rpartition(" ")
    return name if seed.isdecimal() and name else str(row["name"])


def mean_and_interval(shares: NDArray[np.float64]) -> tuple[float, float, float]:
    """Mean over images of (N,), and its 95% interval."""
    mean, half = float(shares.mean()), Z95 * float(shares.std(ddof=1)) / len(shares) ** 0.5
    return mean, mean - half, mean + half


def _shares(rows: Sequence[Row], name: str) -> NDArray[np.float64]:
    """The share of each image's 75 corruptions that are classified correctly, mean over seeds, (N,)."""
    counts = np.array([row["correct_of_75"] for row in rows if kind(row) == name], np.float64)
    shares: NDArray[np.float64] = counts.mean(axis=0) / (len(CORRUPTIONS) * len(SEVERITIES))
    return shares


def table(rows: Sequence[Row], baseline: str) -> str:
    """The rows in Markdown."""
    head = ("network", "seeds", "clean", "mean", "95%", *FAMILIES, f"minus {baseline}", "95%", "by seed")
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for name in dict.fromkeys(map(kind, rows)):
        own = [row for row in rows if kind(row) == name]
        shares = _shares(rows, name)
        mean, low, high = mean_and_interval(shares)
        by_family = np.mean([[row["accuracy"][each] for each in CORRUPTIONS] for row in own], axis=0).mean(axis=1)
        families = [_percent(by_family[part].mean()) for part in FAMILIES.values()]
        difference = mean_and_interval(shares - _shares(rows, baseline))
        by_seed = ", ".join(_percent(np.mean(row["correct_of_75"]) / 75) for row in own)
        cells = (
            name, str(len(own)), _percent(np.mean([row["clean"] for row in own])), _percent(mean),
            f"{_percent(low)} to {_percent(high)}", *families,
            *(("", "") if name == baseline else (_percent(difference[0], "+"), _between(*difference[1:]))), by_seed,
        )  # fmt: skip
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _between(low: float, high: float) -> str:
    return f"{_percent(low, '+')} to {_percent(high, '+')}"


def _percent(share: float | np.floating[Any], sign: str = "") -> str:
    return f"{100 * float(share):{sign}.1f}"


if __name__ == "__main__":
    run("corruptions", main)
