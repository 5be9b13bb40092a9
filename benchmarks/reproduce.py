"""Both papers' recipes, trained and attacked, to one table: Markdown, JSON and a picture; resumable row by row.

python benchmarks/reproduce.py image --preset cpu --data DATA --out benchmarks/results/image-cpu

DATA holds cifar10-train-*.parquet, cifar10-test.parquet, tinyimagenet32-train-*.parquet and tinyimagenet32-val.parquet
(columns image and label), or is given as --train, --test, --big and --big-test in any form that `abnn train` takes.
"""

from __future__ import annotations

import argparse
import datetime as dt
import json
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path

from matplotlib.figure import Figure

from abnn_serve.card import RobustnessCard
from abnn_serve.codec import from_json, to_json
from abnn_serve.errors import AbnnError, ConfigError
from abnn_serve.lab.data import load_data
from abnn_serve.lab.device import describe_device, pick_device
from abnn_serve.lab.export.subject import open_subject
from abnn_serve.lab.recipes import Recipe, recipe_by_name
from abnn_serve.lab.robustness import draw, filled, measure
from abnn_serve.lab.run import Run
from abnn_serve.lab.start import TrainRequest, train
from abnn_serve.lab.suites import choose_trials
from abnn_serve.spec import InputSpec


@dataclass(frozen=True, kw_only=True)
class Row:
    """One trained network of the table.

    `init` and `substitute` name other rows; `epochs` and `lr` are of the cpu preset; `evaluated` rows are in the table.
    """

    name: str
    recipe: str
    epochs: int
    init: str | None = None
    substitute: str | None = None
    form: str = "linear"
    big: bool = False
    evaluated: bool = True
    settings: dict[str, object] = field(default_factory=dict)
    published: str = ""


_SHORT: dict[str, object] = {"lr": 0.03}  # from weights that are trained already

ROWS = (
    Row(name="substitute", recipe="standard", epochs=8, big=True, evaluated=False),
    Row(name="robust-substitute", recipe="fast-at", epochs=8, big=True, evaluated=False),
    Row(name="standard", recipe="standard", epochs=30, settings={"cutout": 8}, published="93.4 / 0.0 at 2N"),
    Row(name="probe", recipe="probe", epochs=3, init="substitute", evaluated=False),
    Row(name="abnn-scratch", recipe="abnn", epochs=10, substitute="substitute", published="87.5 / 31.5 at 3N"),
    Row(name="abnn", recipe="abnn", epochs=7, init="standard", substitute="substitute", settings=_SHORT),
    Row(name="abnn-adain", recipe="abnn", epochs=10, substitute="substitute", form="adain"),
    Row(name="pgd-at", recipe="pgd-at", epochs=10, published="83.3 / 51.6 at 12N"),
    Row(name="fast-at", recipe="fast-at", epochs=10),
    Row(name="bn-at", recipe="bn-at", epochs=2, init="standard"),
    Row(name="bn-head-at", recipe="bn-at", epochs=2, init="standard", settings={"trained": "norm+head"}),
    Row(name="bn-at-scratch", recipe="bn-at-scratch", epochs=2),
    Row(
        name="abnn-robust",
        recipe="abnn",
        epochs=7,
        init="standard",
        substitute="robust-substitute",
        settings=_SHORT,
    ),
    Row(name="robust-probe", recipe="probe", epochs=3, init="robust-substitute"),
    Row(name="abnn-at", recipe="abnn-at", epochs=2, init="abnn-robust"),
    Row(
        name="abnn-at-whole",
        recipe="abnn-at",
        epochs=4,
        init="abnn-robust",
        settings={"trained": "all", "attack_steps": 1, **_SHORT},
    ),
)


@dataclass(frozen=True, kw_only=True)
class Preset:
    """Size of everything; `scale` multiplies the epochs of ROWS."""

    target: str
    adain_target: str
    substitute: str
    batch_size: int
    lr: float
    scale: int
    images: int


PRESETS = {
    "cpu": Preset(
        target="resnet10-w16",
        adain_target="resnet8s-w32",
        substitute="resnet8s-w32",
        batch_size=128,
        lr=0.2,
        scale=1,
        images=1000,
    ),
    "gpu": Preset(
        target="cifar-resnet50",
        adain_target="cifar-resnet18",
        substitute="cifar-resnet18",
        batch_size=256,
        lr=0.1,
        scale=4,
        images=10_000,
    ),
}


def main() -> None:
    """Train and evaluate the rows that were asked for, then write the table of all that are finished."""
    options = _options()
    out = Path(options.out)
    out.mkdir(parents=True, exist_ok=True)
    for seed in options.seeds:
        for row in _with_needs(options.rows):
            _train(row, options, seed)
            if row.evaluated:
                _evaluate(row, options, seed)
            _write(options)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["image"], help="which table")
    parser.add_argument("--preset", choices=sorted(PRESETS), default="cpu")
    parser.add_argument("--data", help="folder with the four data sets under the names above")
    for name in ("train", "test", "big", "big-test"):
        parser.add_argument(f"--{name}", help="in the place of DATA's")
    parser.add_argument("--out", default="benchmarks/results/image", help="results; runs are kept in RUNS")
    parser.add_argument("--runs", default="runs/reproduce", help="checkpoints, one folder a row and seed")
    parser.add_argument("--rows", nargs="*", default=[row.name for row in ROWS if row.evaluated])
    parser.add_argument("--seeds", nargs="*", type=int, default=[0])
    parser.add_argument("-n", type=int, help="images to attack")
    parser.add_argument("--autoattack", action="store_true", help="AutoAttack too: by far the longest")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--compile", action="store_true")
    options = parser.parse_args()
    names = {"train": "cifar10-train-*", "test": "cifar10-test", "big": "tinyimagenet32-train-*"}
    for name, stem in {**names, "big_test": "tinyimagenet32-val"}.items():
        if getattr(options, name) is None:
            if options.data is None:
                parser.error(f"give --data, or --{name.replace('_', '-')}")
            setattr(options, name, str(Path(options.data) / f"{stem}.parquet"))
    if unknown := set(options.rows) - {row.name for row in ROWS}:
        parser.error(f"no row named {min(unknown)}, expected some of {', '.join(row.name for row in ROWS)}")
    return options


def _with_needs(names: list[str]) -> list[Row]:
    """The named rows, those that they are made from, and what every evaluation holds; in the order of ROWS."""
    wanted = {*names, "standard", "probe"}
    for row in reversed(ROWS):
        if row.name in wanted:
            wanted |= {need for need in (row.init, row.substitute) if need}
    return [row for row in ROWS if row.name in wanted]


def _run(name: str, options: argparse.Namespace, seed: int) -> Path:
    return Path(str(options.runs), options.preset, f"{name}-{seed}")


def _recipe(row: Row, preset: Preset) -> Recipe:
    settings: dict[str, object] = {"batch_size": preset.batch_size, "epochs": row.epochs * preset.scale}
    if recipe_by_name(row.recipe).trained == "all":
        settings["lr"] = preset.lr
    return replace(recipe_by_name(row.recipe), **settings | row.settings)  # type: ignore[arg-type]


def _train(row: Row, options: argparse.Namespace, seed: int) -> None:
    preset, out = PRESETS[options.preset], _run(row.name, options, seed)
    if (out / "weights.pt").is_file():
        return
    target = preset.adain_target if row.form == "adain" else preset.substitute if row.big else preset.target
    request = TrainRequest(
        recipe=_recipe(row, preset),
        target=None if row.init else target,
        init=str(_run(row.init, options, seed)) if row.init else None,
        substitute=str(_run(row.substitute, options, seed)) if row.substitute else None,
        form=row.form,  # type: ignore[arg-type]
        data=options.big if row.big else options.train,
        val=options.big_test if row.big else options.test,
        input=InputSpec(height=32, width=32),
        seed=seed,
    )

    def on_progress(at: object) -> None:
        print(f"\r{row.name}: {at}", end="", file=sys.stderr)

    train(
        request,
        out,
        resume=Run(out).exists,
        device=pick_device(options.device),
        compiled=options.compile,
        on_progress=on_progress if sys.stderr.isatty() else lambda _: None,
    )
    print(f"{row.name} (seed {seed}): {Run(out).metrics[-1]}", file=sys.stderr)


def _evaluate(row: Row, options: argparse.Namespace, seed: int) -> None:
    folder = _run(row.name, options, seed) / "evaluation"
    if (folder / "card.json").is_file():
        return
    opened = open_subject(
        _run(row.name, options, seed),
        twin=_run("standard", options, seed),
        probe=_run("probe", options, seed),
    )
    data = load_data(options.test, opened.input)
    trials = choose_trials(opened.subject, seed=seed, autoattack=options.autoattack)
    folder.mkdir(exist_ok=True)
    report = measure(
        opened.subject,
        data.spread(options.n or PRESETS[options.preset].images),
        trials,
        device=pick_device(options.device),
        store=folder / "batches",
        on_progress=lambda trial, n, left: print(
            f"{row.name}: {trial.threat_model} {trial.attack.name}, {n}: {left:.1%}", file=sys.stderr
        ),
    )
    card = filled(opened.card(data), report, data)
    draw(opened.subject, report, folder)
    (folder / "card.json").write_text(json.dumps(to_json(card)))


def _write(options: argparse.Namespace) -> None:
    found: list[tuple[Row, int, RobustnessCard]] = []
    for row in ROWS:
        for seed in options.seeds:
            path = _run(row.name, options, seed) / "evaluation" / "card.json"
            if path.is_file():
                found.append(
                    (row, seed, from_json(RobustnessCard, json.loads(path.read_text()), str(path), ConfigError))
                )
    out = Path(options.out)
    record = {
        "date": dt.datetime.now(tz=dt.UTC).date().isoformat(),
        "hardware": describe_device(pick_device(options.device)),
        "preset": options.preset,
        "rows": [{"name": row.name, "seed": seed, "card": to_json(card)} for row, seed, card in found],
    }
    (out / "table.json").write_text(json.dumps(record, indent=1) + "\n")
    (out / "table.md").write_text(_markdown(record, found))
    if found:
        _draw(found, out / "table.png")


COLUMNS = (
    ("whitebox FGSM", "whitebox", "FGSM"),
    ("whitebox PGD-20", "whitebox", "PGD-20"),
    ("whitebox worst case", "whitebox", "worst case"),
    ("AutoAttack", "whitebox", "AutoAttack"),
    ("Square", "whitebox", "Square"),
    ("ROA 10%", "whitebox", "ROA"),
    ("graybox PGD-20", "graybox", "PGD-20"),
    ("transfer PGD-20", "transfer", "PGD-20"),
    ("substitute-transfer PGD-20", "substitute-transfer", "PGD-20"),
)


def _figure(card: RobustnessCard, threat: str, attack: str) -> float | None:
    rows = [row for row in card.attacks if row.threat_model == threat]
    exact = [row for row in rows if row.attack == attack] or [row for row in rows if row.attack.startswith(attack)]
    return 100 * exact[0].accuracy.value if exact else None


def _markdown(record: dict[str, object], found: list[tuple[Row, int, RobustnessCard]]) -> str:
    head = ["row", "seed", "published (clean / PGD)", "clean", *(name for name, _, _ in COLUMNS), "cost", "seconds"]
    lines = [
        f"{record['date']}, {record['hardware']}, preset {record['preset']}; Linf 8/255; accuracy in %.",
        "",
        f"| {' | '.join(head)} |",
        "|" + "---|" * len(head),
    ]
    for row, seed, card in found:
        cost, figures = card.training, [_figure(card, threat, attack) for _, threat, attack in COLUMNS]
        before = f" + {cost.init_seconds:,.0f}" if cost.init_seconds else ""
        cells = [
            row.name,
            str(seed),
            row.published,
            f"{100 * card.clean.value:.1f}" if card.clean else "",
            *("" if figure is None else f"{figure:.1f}" for figure in figures),
            f"{cost.passes_per_step}N x {cost.epochs}",
            f"{cost.seconds:,.0f}{before}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _draw(found: list[tuple[Row, int, RobustnessCard]], path: Path) -> None:
    figure = Figure(figsize=(8, 0.6 + 0.5 * len(found)), layout="constrained")
    axis = figure.subplots()
    shown = (("clean", "tab:gray"), ("graybox", "tab:orange"), ("transfer", "tab:green"), ("whitebox", "tab:blue"))
    for position, (_, _, card) in enumerate(found):
        measured = {"clean": card.clean} | {str(threat): value for threat, value in card.worst.items()}
        for offset, (name, colour) in enumerate(shown):
            accuracy = measured.get(name)
            if accuracy is not None:
                label = name if position == 0 else None
                axis.barh(position + 0.2 * offset, 100 * accuracy.value, height=0.18, color=colour, label=label)
    axis.set_yticks(
        [position + 0.3 for position in range(len(found))], [f"{row.name} {seed}" for row, seed, _ in found]
    )
    axis.invert_yaxis()
    axis.set(xlabel="accuracy, %: clean, and under the worst attack of each threat model", xlim=(0, 100))
    axis.legend(*axis.get_legend_handles_labels(), fontsize=8)
    axis.grid(axis="x", alpha=0.3)
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    try:
        main()
    except AbnnError as error:
        sys.exit(f"reproduce: {error}")
