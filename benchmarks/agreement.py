"""Do this package's FGSM, PGD and Square agree with torchattacks' on the same network and images?

pip install torchattacks
python -m benchmarks.agreement RUN --data DATA --eps 1 2 8 --out benchmarks/results/agreement

Prints the robust accuracy under both, in percent. They may differ by 1 point where an attack is deterministic and by 3
points where it is random.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from abnn_serve.evaluation.subject import open_subject
from abnn_serve.lab.attacks.base import Attack
from abnn_serve.lab.attacks.pgd import FGSM, PGD
from abnn_serve.lab.attacks.square import Square
from abnn_serve.lab.data.load import load_data
from abnn_serve.lab.device import describe_device, pick_device
from abnn_serve.lab.training.batches import to_input
from benchmarks.common.command import add_out_option, new_parser, run
from benchmarks.common.report import Bar, write_record

BATCH = 250
QUERIES = 300

# Name, this package's attack, torchattacks' with the same settings, and the points by which they may differ.
Comparison = tuple[str, Attack, Callable[[Tensor, Tensor], Tensor], float]


def main() -> list[Bar]:
    """Attack with both, print and write the results."""
    parser = new_parser("agreement", __doc__)
    parser.add_argument("run", type=Path, help="a finished training run")
    parser.add_argument("--data", required=True, help="labelled images, in a form that abnn train accepts")
    parser.add_argument("--eps", nargs="+", type=float, default=[8.0], help="Linf budgets in 1/255")
    parser.add_argument("-n", type=int, default=500, help="number of images")
    parser.add_argument("--device", default="auto")
    add_out_option(parser)
    options = parser.parse_args()
    device = pick_device(options.device)
    opened = open_subject(options.run)
    assert opened.subject.network is not None  # noqa: S101
    model = opened.subject.network.to(device).eval().requires_grad_(requires_grad=False)
    data = load_data(options.data, opened.input).spread(options.n)
    x, y = to_input(data.images, device), torch.from_numpy(data.labels).to(device)
    rows = [row for eps in options.eps for row in _compare(model, x, y, eps / 255)]
    bars = bars_of(rows)
    if options.out:
        settings = {"run": options.run, "eps": options.eps, "images": len(data)}
        write_record(options.out, settings, bars, hardware=describe_device(device), rows=rows)
    return bars


def bars_of(rows: list[dict[str, Any]]) -> list[Bar]:
    """One bar for each row of a run: the difference between the two accuracies, in points."""
    return [
        Bar(
            name=f"{row['attack']}: {row['ours']:.1f}%, torchattacks {row['theirs']:.1f}%",
            setting=f"eps {row['eps']:g}/255",
            value=round(abs(row["ours"] - row["theirs"]), 9),
            limit=row["agreed"],
        )
        for row in rows
    ]


def _compare(model: nn.Module, x: Tensor, y: Tensor, eps: float) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for name, attack, reference, tolerance in _comparisons(model, eps):
        torch.manual_seed(0)
        robust = [0, 0]
        for start in range(0, len(x), BATCH):
            images, labels = x[start : start + BATCH], y[start : start + BATCH]
            results = (
                attack(model, images, labels, seed=start, early_stop=isinstance(attack, Square)),
                reference(images, labels),
            )
            with torch.no_grad():
                for i, x_adv in enumerate(results):
                    robust[i] += int((model(x_adv).argmax(1) == labels).sum())
        accuracy, reference_accuracy = (100 * count / len(x) for count in robust)
        rows.append(
            {
                "attack": name,
                "eps": round(255 * eps, 3),
                "ours": accuracy,
                "theirs": reference_accuracy,
                "agreed": tolerance,
            }
        )
    return rows


def _comparisons(model: nn.Module, eps: float) -> list[Comparison]:
    import torchattacks

    step = eps / 4
    return [
        ("FGSM", FGSM(eps=eps), torchattacks.FGSM(model, eps=eps), 1.0),
        (
            "PGD-20 from x",
            PGD(eps=eps, steps=20, step_size=step, random_start=False),
            torchattacks.PGD(model, eps=eps, alpha=step, steps=20, random_start=False),
            1.0,
        ),
        (
            "PGD-20, random start",
            PGD(eps=eps, steps=20, step_size=step),
            torchattacks.PGD(model, eps=eps, alpha=step, steps=20, random_start=True),
            3.0,
        ),
        (
            f"Square-{QUERIES}",
            Square(eps=eps, queries=QUERIES),
            torchattacks.Square(model, eps=eps, n_queries=QUERIES, loss="margin"),
            3.0,
        ),
    ]


if __name__ == "__main__":
    run("agreement", main)
