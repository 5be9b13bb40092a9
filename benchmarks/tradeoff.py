"""How much clean accuracy does robustness cost here, and in small networks that others published?

python -m benchmarks.tradeoff --out benchmarks/results/image-cpu/tradeoff

Reads the cards of the bundles in models/ and the rows of the first seed that `benchmarks.reproduce` wrote, and draws
clean accuracy against accuracy under AutoAttack, Linf 8/255. Networks that AutoAttack was not run on are left out.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from abnn_serve.bundle.store import load_bundle
from abnn_serve.card import RobustnessCard
from benchmarks.common.command import add_out_option, new_parser, run
from benchmarks.common.plots import Point, draw_tradeoff
from benchmarks.common.report import Bar, write_record
from benchmarks.papers.report import read_results

OURS, PUBLISHED = "this project, JPEG images", "published, original images"
EPS = 8 / 255


# Clean accuracy and AutoAttack of RobustBench's CIFAR-10 Linf leaderboard (model_info/cifar10/Linf), all 10,000 images;
# the last is of MTandHJ/PyTorch-Robust. A ResNet-18 has 11.2 million parameters, a ResNet-32 0.5, resnet10-w16 1.1.
NETWORKS = (
    ("ResNet-18, Wong 2020, one step", 83.34, 43.21),
    ("ResNet-18, Andriushchenko 2020, one step", 79.84, 43.93),
    ("ResNet-18, Addepalli 2021", 80.24, 51.06),
    ("ResNet-18, Addepalli 2022", 85.71, 52.48),
    ("ResNet-18, Sehwag 2021, 6M generated images", 84.38, 54.43),
    ("ResNet-18, Rade 2021, 1M generated images", 86.86, 57.09),
    ("ResNet-32, PGD-10, 110 epochs", 76.6, 43.9),
)


def main() -> list[Bar]:
    """Print every network's pair of figures, and draw them."""
    parser = new_parser("tradeoff", __doc__)
    parser.add_argument("--models", type=Path, default=Path("models"), help="folder of bundles")
    parser.add_argument(
        "--table", type=Path, default=Path("benchmarks/results/image-cpu/table.json"), help="results of reproduce"
    )
    add_out_option(parser, "JSON, PNG")
    options = parser.parse_args()
    points = read_points(options.models, options.table)
    for point in points:
        print(f"{point.source:26} {point.name:46} clean {point.clean:4.1f}  AutoAttack {point.autoattack:4.1f}")
    if options.out:
        write_record(options.out, {"eps": EPS}, [], points=[asdict(point) for point in points])
        draw_tradeoff(points, options.out.with_suffix(".png"))
    return []


def read_points(models: Path, table: Path) -> list[Point]:
    """Published networks, bundles and rows of the table, without those that AutoAttack was not run on."""
    cards = {path.parent.name: load_bundle(path.parent).card for path in sorted(models.glob("*/bundle.json"))}
    cards |= {name: one.card for (name, seed), one in read_results(table, "cpu", EPS).items() if not seed}
    published = [Point(name, clean, attacked, 10_000, PUBLISHED) for name, clean, attacked in NETWORKS]
    return published + [point for name, card in cards.items() if card and (point := _point(name, card))]


def _point(name: str, card: RobustnessCard) -> Point | None:
    attacks = [row for row in card.attacks if (row.threat_model, row.attack) == ("whitebox", "AutoAttack")]
    if not attacks or not card.clean:
        return None
    accuracy = attacks[0].accuracy
    return Point(name, 100 * card.clean.value, 100 * accuracy.value, accuracy.n, OURS)


if __name__ == "__main__":
    run("tradeoff", main)
