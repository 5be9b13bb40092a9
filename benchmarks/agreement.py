"""Our FGSM, PGD and Square against those of torchattacks, on one network and the same images.

pip install torchattacks
python benchmarks/agreement.py RUN --data DATA --eps 1 2 8 --out benchmarks/results/agreement.json

Prints the accuracy that each leaves, in percent, and exits with 1 where two differ by more than is agreed: 1 point
where nothing is random, 3 points where something is.
"""

from __future__ import annotations

import argparse
import datetime as dt
import json
import sys
from pathlib import Path
from typing import Any

import torch
import torchattacks
from torch import Tensor

from abnn_serve.errors import AbnnError
from abnn_serve.evaluation.subject import open_subject
from abnn_serve.lab.attacks.base import Attack
from abnn_serve.lab.attacks.pgd import FGSM, PGD
from abnn_serve.lab.attacks.square import Square
from abnn_serve.lab.data.load import load_data
from abnn_serve.lab.device import describe_device, pick_device
from abnn_serve.lab.training.batches import to_input

BATCH = 250
QUERIES = 300


def main() -> None:
    """Attack, compare, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="a finished training run")
    parser.add_argument("--data", required=True, help="labelled images, as abnn train takes them")
    parser.add_argument("--eps", nargs="+", type=float, default=[8.0], help="Linf budgets in 255ths")
    parser.add_argument("-n", type=int, default=500, help="images")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--out", type=Path, help="where to write the figures as JSON")
    options = parser.parse_args()
    device = pick_device(options.device)
    opened = open_subject(options.run)
    assert opened.subject.network is not None  # noqa: S101
    model = opened.subject.network.to(device).eval().requires_grad_(requires_grad=False)
    data = load_data(options.data, opened.input).spread(options.n)
    x, y = to_input(data.images, device), torch.from_numpy(data.labels).to(device)
    rows = [row for eps in options.eps for row in _compare(model, x, y, eps / 255)]
    for row in rows:
        print(f"{row['attack']:<24} eps {row['eps']}/255  ours {row['ours']:5.1f}  torchattacks {row['theirs']:5.1f}")
    if options.out:
        record = {
            "date": dt.datetime.now(tz=dt.UTC).date().isoformat(),
            "hardware": describe_device(device),
            "torch": torch.__version__,
            "run": options.run.name,
            "images": len(data),
            "rows": rows,
        }
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(record, indent=1) + "\n")
    if far := [row for row in rows if abs(float(row["ours"]) - float(row["theirs"])) > float(row["agreed"])]:
        sys.exit(f"agreement: {len(far)} of {len(rows)} differ by more than was agreed, the first: {far[0]}")


def _compare(model: torch.nn.Module, x: Tensor, y: Tensor, eps: float) -> list[dict[str, Any]]:
    size = eps / 4
    pairs: list[tuple[str, Attack, torchattacks.attack.Attack, float]] = [
        ("FGSM", FGSM(eps=eps), torchattacks.FGSM(model, eps=eps), 1.0),
        (
            "PGD-20 from x",
            PGD(eps=eps, steps=20, step_size=size, random_start=False),
            torchattacks.PGD(model, eps=eps, alpha=size, steps=20, random_start=False),
            1.0,
        ),
        (
            "PGD-20, random start",
            PGD(eps=eps, steps=20, step_size=size),
            torchattacks.PGD(model, eps=eps, alpha=size, steps=20, random_start=True),
            3.0,
        ),
        (
            f"Square-{QUERIES}",
            Square(eps=eps, queries=QUERIES),
            torchattacks.Square(model, eps=eps, n_queries=QUERIES, loss="margin"),
            3.0,
        ),
    ]
    rows: list[dict[str, Any]] = []
    for name, ours, theirs, agreed in pairs:
        torch.manual_seed(0)
        wrong = [0, 0]
        for start in range(0, len(x), BATCH):
            images, labels = x[start : start + BATCH], y[start : start + BATCH]
            found = ours(model, images, labels, seed=start, early_stop=isinstance(ours, Square)), theirs(images, labels)
            with torch.no_grad():
                wrong = [n + int((model(a).argmax(1) != labels).sum()) for n, a in zip(wrong, found, strict=True)]
        left = [100 * (1 - n / len(x)) for n in wrong]
        rows.append({"attack": name, "eps": round(255 * eps, 3), "ours": left[0], "theirs": left[1], "agreed": agreed})
    return rows


if __name__ == "__main__":
    try:
        main()
    except AbnnError as error:
        sys.exit(f"agreement: {error}")
