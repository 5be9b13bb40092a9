"""Both papers' recipes, trained and attacked, to one table: Markdown, JSON and a picture; resumable row by row.

python benchmarks/reproduce.py image --preset cpu --data DATA --out benchmarks/results/image-cpu
python benchmarks/reproduce.py video --preset gpu --data UCF --out benchmarks/results/video-gpu

DATA holds cifar10-train-*.parquet, cifar10-test.parquet, tinyimagenet32-train-*.parquet and tinyimagenet32-val.parquet
(columns image and label). UCF holds UCF-101/<class>/*.avi and ucfTrainTestlist/trainlist01.txt and testlist01.txt, or
any videos as train/<class>/ and test/<class>/; the substitute learns motions made of their frames, unless --substitute
names one. All are also given as --train, --test, --big and --big-test in any form that `abnn train` takes.
"""

from __future__ import annotations

import argparse
import datetime as dt
import json
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from common.tables import TABLES, Preset, Row, Table
from matplotlib.figure import Figure

from abnn_serve.card import RobustnessCard
from abnn_serve.codec import from_json, to_json
from abnn_serve.errors import AbnnError, ConfigError
from abnn_serve.evaluation.report import draw, filled, measure
from abnn_serve.evaluation.subject import open_subject
from abnn_serve.evaluation.suites import choose_trials
from abnn_serve.lab.data.load import load_data
from abnn_serve.lab.device import describe_device, pick_device
from abnn_serve.lab.training.recipes import Recipe, recipe_by_name
from abnn_serve.lab.training.run import Run
from abnn_serve.lab.training.train import TrainRequest, train


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """A finished row: its card, and when and on what it was attacked."""

    card: RobustnessCard
    date: str
    hardware: str


Found = dict[tuple[str, int], Measured]  # by row and seed


def main() -> None:
    """Train and evaluate the rows that were asked for, then write the table of all that are finished."""
    options = _options()
    out = Path(options.out)
    out.mkdir(parents=True, exist_ok=True)
    for seed in options.seeds:
        for row in _with_needs(options):
            _train(row, options, seed)
            if row.evaluated:
                _evaluate(row, options, seed)
            _write(options)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=sorted(TABLES), help="which table")
    parser.add_argument("--preset", choices=["cpu", "gpu"], default="cpu")
    parser.add_argument("--data", help="folder with the data sets under the names above")
    for name in ("train", "test", "big", "big-test"):
        parser.add_argument(f"--{name}", help="in the place of DATA's")
    parser.add_argument("--substitute", help="finished run or NAME@WEIGHTS, such as r3d_18@DEFAULT; not trained here")
    parser.add_argument("--out", help="results, benchmarks/results/WHAT if not given; runs are kept in RUNS")
    parser.add_argument("--runs", default="runs/reproduce", help="checkpoints, one folder a row and seed")
    parser.add_argument("--rows", nargs="*", help="all that are evaluated, if not given")
    parser.add_argument("--seeds", nargs="*", type=int, default=[0], help="substitutes are trained once, with seed 0")
    parser.add_argument("-n", type=int, help="images to attack")
    parser.add_argument("--scale", type=float, default=1.0, help="multiplies every row's epochs: 0.05 is a try")
    parser.add_argument("--autoattack", action="store_true", help="AutoAttack too: by far the longest")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--compile", action="store_true")
    options = parser.parse_args()
    table = TABLES[options.what]
    options.out = options.out or f"benchmarks/results/{options.what}"
    options.rows = options.rows or [row.name for row in table.rows if row.evaluated]
    for name, source in table.sources(options.data).items() if options.data else ():
        if getattr(options, name) is None:
            setattr(options, name, source)
    for name in ("train", "test", *(() if options.substitute else ("big", "big_test"))):
        if getattr(options, name) is None:
            parser.error(f"give --data, or --{name.replace('_', '-')}")
    if unknown := set(options.rows) - {row.name for row in table.rows}:
        parser.error(f"no row named {min(unknown)}, expected some of {', '.join(row.name for row in table.rows)}")
    return options


def _with_needs(options: argparse.Namespace) -> list[Row]:
    """The named rows, those that they are made from, and the twin of evaluated ones; in the order of the table."""
    rows = TABLES[options.what].rows
    wanted = set(options.rows)
    if any(row.evaluated for row in rows if row.name in wanted):
        wanted.add("standard")
    for row in reversed(rows):
        if row.name in wanted:
            wanted |= {need for need in (row.init, row.substitute, row.probe) if need}
    there = {"substitute"} if options.substitute else set()
    return [row for row in rows if row.name in wanted - there]


def _preset(options: argparse.Namespace) -> Preset:
    return TABLES[options.what].presets[str(options.preset)]


def _run(name: str, options: argparse.Namespace, seed: int) -> Path:
    folder = options.preset if options.what == "image" else f"{options.what}-{options.preset}"
    once = any(row.big for row in TABLES[options.what].rows if row.name == name)
    return Path(str(options.runs), folder, f"{name}-{0 if once else seed}")


def _recipe(row: Row, preset: Preset, scale: float) -> Recipe:
    epochs = max(1, round(row.epochs * preset.scale * scale))
    settings: dict[str, object] = {"batch_size": preset.batch_size, "epochs": epochs}
    if recipe_by_name(row.recipe).attack_steps:
        settings["attack_eps"] = preset.eps
    if recipe_by_name(row.recipe).trained == "all":
        settings["lr"] = preset.lr
    return replace(recipe_by_name(row.recipe), **settings | row.settings)  # type: ignore[arg-type]


def _train(row: Row, options: argparse.Namespace, seed: int) -> None:
    preset, out = _preset(options), _run(row.name, options, seed)
    if (out / "weights.pt").is_file():
        return
    target = preset.adain_target if row.form == "adain" else preset.substitute if row.big else preset.target
    request = TrainRequest(
        recipe=_recipe(row, preset, options.scale),
        target=None if row.init else target,
        init=str(_run(row.init, options, seed)) if row.init else None,
        substitute=_substitute(row, options, seed),
        form=row.form,  # type: ignore[arg-type]
        data=options.big if row.big else options.train,
        val=options.big_test if row.big else options.test,
        input=preset.input,
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


def _substitute(row: Row, options: argparse.Namespace, seed: int) -> str | None:
    if row.substitute == "substitute" and options.substitute:
        return str(options.substitute)
    return str(_run(row.substitute, options, seed)) if row.substitute else None


def _evaluate(row: Row, options: argparse.Namespace, seed: int) -> None:
    folder = _run(row.name, options, seed) / "evaluation"
    if (folder / "card.json").is_file():
        return
    table, preset = TABLES[options.what], _preset(options)
    opened = open_subject(
        _run(row.name, options, seed),
        twin=_run("standard", options, seed),
        probe=_run(row.probe, options, seed) if row.probe else None,
    )
    data = load_data(options.test, opened.input)
    threats = [threat for threat in table.threats if threat in opened.subject.threat_models]
    trials = choose_trials(
        opened.subject,
        eps=preset.eps,
        seed=seed,
        attacks=table.attacks,
        threats=threats,
        autoattack=options.autoattack,
    )
    folder.mkdir(exist_ok=True)
    report = measure(
        opened.subject,
        data.spread(options.n or preset.images),
        trials,
        eps=preset.eps,
        curve_images=table.curve_images,
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
    """The table of what is finished here, and of the rows that --out has from before, maybe from other hardware."""
    out, rows = Path(options.out), TABLES[options.what].rows
    found = _written(out / "table.json", options)
    for row in rows:
        for seed in options.seeds:
            path = _run(row.name, options, seed) / "evaluation" / "card.json"
            if path.is_file():
                card = from_json(RobustnessCard, json.loads(path.read_text()), str(path), ConfigError)
                day = dt.datetime.fromtimestamp(path.stat().st_mtime, tz=dt.UTC).date().isoformat()
                measured = Measured(card=card, date=day, hardware=describe_device(pick_device(options.device)))
                found[row.name, seed] = measured
    found = {key: found[key] for row in rows for key in sorted(found) if key[0] == row.name}
    record: dict[str, Any] = {
        "preset": options.preset,
        "eps": _preset(options).eps,
        "rows": [
            {"name": name, "seed": seed, "date": one.date, "hardware": one.hardware, "card": to_json(one.card)}
            for (name, seed), one in found.items()
        ],
    }
    (out / "table.json").write_text(json.dumps(record, indent=1) + "\n")
    (out / "table.md").write_text(_markdown(record, found, TABLES[options.what]))
    if found:
        _draw(found, out / "table.png")


def _written(path: Path, options: argparse.Namespace) -> Found:
    if not path.is_file():
        return {}
    before = json.loads(path.read_text())
    if (before["preset"], before["eps"]) != (options.preset, _preset(options).eps):
        raise ConfigError(f"{path} is of preset {before['preset']} at {before['eps']:.4g}; give another --out")
    return {
        (row["name"], row["seed"]): Measured(
            card=from_json(RobustnessCard, row["card"], str(path), ConfigError),
            date=row["date"],
            hardware=row["hardware"],
        )
        for row in before["rows"]
    }


def _figure(card: RobustnessCard, threat: str, attack: str) -> float | None:
    rows = [row for row in card.attacks if row.threat_model == threat]
    exact = [row for row in rows if row.attack == attack] or [row for row in rows if row.attack.startswith(attack)]
    return 100 * exact[0].accuracy.value if exact else None


def _markdown(record: dict[str, Any], found: Found, table: Table) -> str:
    published = {row.name: row.published for row in table.rows}
    head = [
        "row",
        "seed",
        "published (clean / PGD)",
        "clean",
        *(name for name, _, _ in table.columns),
        "cost",
        "seconds",
        "attacked",
    ]
    lines = [
        f"Preset {record['preset']}; Linf {255 * record['eps']:.3g}/255; accuracy in %.",
        "",
        f"| {' | '.join(head)} |",
        "|" + "---|" * len(head),
    ]
    for (name, seed), one in found.items():
        card, cost = one.card, one.card.training
        figures = [_figure(card, threat, attack) for _, threat, attack in table.columns]
        before = f" + {cost.init_seconds:,.0f}" if cost.init_seconds else ""
        cells = [
            name,
            str(seed),
            published[name],
            f"{100 * card.clean.value:.1f}" if card.clean else "",
            *("" if figure is None else f"{figure:.1f}" for figure in figures),
            f"{cost.passes_per_step}N x {cost.epochs}",
            f"{cost.seconds:,.0f}{before}",
            f"{one.date}, {one.hardware}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _draw(found: Found, path: Path) -> None:
    figure = Figure(figsize=(8, 0.6 + 0.5 * len(found)), layout="constrained")
    axis = figure.subplots()
    shown = (("clean", "tab:gray"), ("graybox", "tab:orange"), ("transfer", "tab:green"), ("whitebox", "tab:blue"))
    for position, one in enumerate(found.values()):
        measured = {"clean": one.card.clean} | {str(threat): value for threat, value in one.card.worst.items()}
        for offset, (name, colour) in enumerate(shown):
            accuracy = measured.get(name)
            if accuracy is not None:
                label = None if name in axis.get_legend_handles_labels()[1] else name
                axis.barh(position + 0.2 * offset, 100 * accuracy.value, height=0.18, color=colour, label=label)
    axis.set_yticks([position + 0.3 for position in range(len(found))], [f"{name} {seed}" for name, seed in found])
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
