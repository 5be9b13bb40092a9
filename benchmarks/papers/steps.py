"""Training and attacking one row of a table; each is skipped if its result exists."""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path

from abnn_serve.evaluation.evaluate import evaluate
from abnn_serve.evaluation.outcomes import Progress
from abnn_serve.evaluation.subject import open_subject
from abnn_serve.lab.device import pick_device
from abnn_serve.lab.training.recipe import Recipe
from abnn_serve.lab.training.recipes import recipe_by_name
from abnn_serve.lab.training.request import TrainRequest
from abnn_serve.lab.training.run import Run
from abnn_serve.lab.training.train import train
from benchmarks.papers.table import Preset, Row, Table


def run_path(name: str, options: argparse.Namespace, seed: int) -> Path:
    """The folder of a row's run; pretrained rows have one for all seeds."""
    folder = options.preset if options.what == "image" else f"{options.what}-{options.preset}"
    pretrained = any(row.pretraining for row in options.table.rows if row.name == name)
    return Path(options.runs, folder, f"{name}-{0 if pretrained else seed}")


def train_row(row: Row, options: argparse.Namespace, seed: int) -> None:
    """Train a row, or resume its run."""
    preset: Preset = options.table.presets[options.preset]
    out = run_path(row.name, options, seed)
    if (out / "weights.pt").is_file():
        return
    usual = preset.adain_target if row.form == "adain" else preset.substitute if row.pretraining else preset.target
    request = TrainRequest(
        recipe=_recipe(row, preset, options.scale),
        target=None if row.init else row.target or usual,
        init=str(run_path(row.init, options, seed)) if row.init else None,
        substitute=_substitute(row, options, seed),
        form=row.form,
        data=options.big if row.pretraining else options.train,
        val=options.big_test if row.pretraining else options.test,
        input=preset.input,
        seed=seed,
    )

    def on_progress(progress: object) -> None:
        if sys.stderr.isatty():
            print(f"\r{row.name}: {progress}", end="", file=sys.stderr)

    train(
        request,
        out,
        resume=Run(out).exists,
        device=pick_device(options.device),
        compiled=options.compile,
        on_progress=on_progress,
    )
    print(f"{row.name} (seed {seed}): {Run(out).metrics[-1]}", file=sys.stderr)


def evaluate_row(row: Row, options: argparse.Namespace, seed: int) -> None:
    """Attack a trained row and write its card to the run's folder."""
    run = run_path(row.name, options, seed)
    if card_path(row, options, seed).is_file():
        return
    table: Table = options.table
    preset = table.presets[options.preset]
    twin, probe = run_path("standard", options, seed), run_path(row.probe, options, seed) if row.probe else None
    available = open_subject(run, twin=twin, probe=probe).subject.threat_models

    def on_progress(progress: Progress) -> None:
        trial = f"{progress.trial.threat_model} {progress.trial.attack.name}"
        print(f"{row.name}: {trial}, {progress.done}: {progress.accuracy:.1%}", file=sys.stderr)

    evaluate(
        run,
        options.test,
        twin=twin,
        probe=probe,
        attacks=table.attacks,
        threats=[threat for threat in table.threats if threat in available],
        images=options.n or preset.images,
        curve_images=table.curve_images,
        eps=preset.eps,
        seed=seed,
        autoattack=options.autoattack,
        device=options.device,
        on_progress=on_progress,
    )


def card_path(row: Row, options: argparse.Namespace, seed: int) -> Path:
    """Where `evaluate_row` writes the card."""
    return run_path(row.name, options, seed) / "evaluation" / "card.json"


def _recipe(row: Row, preset: Preset, scale: float) -> Recipe:
    epochs = max(1, round(row.epochs * preset.scale * scale))
    settings: dict[str, object] = {"batch_size": preset.batch_size, "epochs": epochs}
    if recipe_by_name(row.recipe).attack_steps:
        settings["attack_eps"] = preset.eps
    if recipe_by_name(row.recipe).trained == "all":
        settings["lr"] = preset.lr
    return replace(recipe_by_name(row.recipe), **settings | row.settings)  # type: ignore[arg-type]


def _substitute(row: Row, options: argparse.Namespace, seed: int) -> str | None:
    if row.substitute == "substitute" and options.substitute:
        return str(options.substitute)
    return str(run_path(row.substitute, options, seed)) if row.substitute else None
