"""How robust are networks trained with both papers' recipes?

python -m benchmarks.reproduce image --preset cpu --data DATA --out benchmarks/results/image-cpu
python -m benchmarks.reproduce recipes --preset cpu --data DATA --out benchmarks/results/recipes-cpu
python -m benchmarks.reproduce video --preset gpu --data UCF --out benchmarks/results/video-gpu

Trains and attacks every row of a paper's table; `recipes` compares recipes on held-out training images, for choosing
one. If it is killed, run the same command again: it resumes.

DATA holds cifar10-train-*.parquet, cifar10-test.parquet, tinyimagenet32-train-*.parquet and tinyimagenet32-val.parquet
(columns image and label). UCF holds UCF-101/<class>/*.avi and ucfTrainTestlist/trainlist01.txt and testlist01.txt, or
any videos as train/<class>/ and test/<class>/; the substitute learns motions made of their frames, unless --substitute
names one. --train, --test, --big and --big-test name the data in any other form that `abnn train` accepts.
"""

from __future__ import annotations

import argparse
import datetime as dt
import json
from pathlib import Path

from abnn_serve.card import RobustnessCard
from abnn_serve.codec import from_json
from abnn_serve.errors import ConfigError
from abnn_serve.lab.device import describe_device, pick_device
from benchmarks.common.command import new_parser, run
from benchmarks.common.report import Bar
from benchmarks.papers.image import IMAGE
from benchmarks.papers.recipes import RECIPES
from benchmarks.papers.report import Result, read_results, write_results
from benchmarks.papers.steps import card_path, evaluate_row, train_row
from benchmarks.papers.table import Row, Table
from benchmarks.papers.video import VIDEO

TABLES = {"image": IMAGE, "recipes": RECIPES, "video": VIDEO}


def main() -> list[Bar]:
    """Train and evaluate the chosen rows; after each, write the table of all that are finished."""
    options = _options()
    options.out.mkdir(parents=True, exist_ok=True)
    for seed in options.seeds:
        for row in _with_requirements(options):
            train_row(row, options, seed)
            if row.evaluated:
                evaluate_row(row, options, seed)
            _write_table(options)
    return []


def _options() -> argparse.Namespace:
    parser = new_parser("reproduce", __doc__)
    parser.add_argument("what", choices=sorted(TABLES), help="the table")
    parser.add_argument("--preset", choices=["cpu", "gpu"], default="cpu", help="sizes of everything (default cpu)")
    parser.add_argument("--data", help="folder with the data sets under the names above")
    for name, data in (
        ("train", "training data"),
        ("test", "test data"),
        ("big", "the substitute's training data"),
        ("big-test", "the substitute's test data"),
    ):
        parser.add_argument(f"--{name}", help=f"{data}, instead of DATA's")
    parser.add_argument(
        "--substitute", help="finished run or NAME@WEIGHTS, such as r3d_18@DEFAULT, instead of training one"
    )
    parser.add_argument("--out", type=Path, help="folder for the table (default benchmarks/results/WHAT)")
    parser.add_argument("--runs", default="runs/reproduce", help="folder for the runs, one for each row and seed")
    parser.add_argument("--rows", nargs="*", help="rows to train and evaluate (default all)")
    parser.add_argument(
        "--seeds", nargs="*", type=int, default=[0], help="random seeds; substitutes are trained once, with seed 0"
    )
    parser.add_argument("-n", type=int, help="number of samples to attack (default: the preset's)")
    parser.add_argument("--scale", type=float, default=1.0, help="multiplies every row's epochs; 0.05 for a trial run")
    parser.add_argument("--autoattack", action="store_true", help="also run AutoAttack, by far the slowest attack")
    parser.add_argument("--device", default="auto")
    parser.add_argument(
        "--compile",
        action=argparse.BooleanOptionalAction,
        help="compile the networks for training (default with --preset gpu)",
    )
    options = parser.parse_args()
    options.compile = options.preset == "gpu" if options.compile is None else options.compile
    options.table = table = TABLES[options.what]
    options.out = options.out or Path("benchmarks/results", options.what)
    options.rows = options.rows or [row.name for row in table.rows if row.evaluated]
    for name, source in table.sources(options.data).items() if options.data else ():
        if getattr(options, name) is None:
            setattr(options, name, source)
    for name in ("train", "test", *(() if options.substitute else ("big", "big_test"))):
        if getattr(options, name) is None:
            parser.error(f"--{name.replace('_', '-')} is missing; give it, or --data")
    if unknown := set(options.rows) - {row.name for row in table.rows}:
        parser.error(f"no row named {min(unknown)!r}, expected some of {', '.join(row.name for row in table.rows)}")
    return options


def _with_requirements(options: argparse.Namespace) -> list[Row]:
    """The chosen rows, the rows that they depend on and, if any is evaluated, their twin; in the table's order."""
    rows = options.table.rows
    names = set(options.rows)
    if any(row.evaluated for row in rows if row.name in names):
        names.add("standard")
    for row in reversed(rows):
        if row.name in names:
            names |= {required for required in (row.init, row.substitute, row.probe) if required}
    if options.substitute:
        names.discard("substitute")
    return [row for row in rows if row.name in names]


def _write_table(options: argparse.Namespace) -> None:
    """Write the table of all finished rows, together with those that --out already has."""
    table: Table = options.table
    results = read_results(options.out / "table.json", options.preset, table.presets[options.preset].eps)
    for row in table.rows:
        for seed in options.seeds:
            path = card_path(row, options, seed)
            if path.is_file():
                card = from_json(RobustnessCard, json.loads(path.read_text()), str(path), ConfigError)
                date = dt.datetime.fromtimestamp(path.stat().st_mtime, tz=dt.UTC).date().isoformat()
                hardware = describe_device(pick_device(options.device))
                results[row.name, seed] = Result(card=card, date=date, hardware=hardware)
    write_results(options.out, results, table, options.preset)


if __name__ == "__main__":
    run("reproduce", main)
