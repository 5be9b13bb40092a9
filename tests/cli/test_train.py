"""What abnn train prints and offers, without training for long."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from typer.testing import CliRunner

from abnn_serve.cli.main import app
from abnn_serve.cli.train import RECIPES
from abnn_serve.lab.training import recipes
from abnn_serve.lab.training.loop import Progress

ARGUMENTS = ["train", "standard", "--target", "resnet18", "--data", "d", "--val", "v", "--out", "o", "--device", "cpu"]


def _progress(images_per_second: float, step: int = 20) -> Progress:
    return Progress(
        epoch=1, epochs=20, step=step, steps=200, loss=1.0, accuracy=0.5, images_per_second=images_per_second
    )


def _train(monkeypatch: pytest.MonkeyPatch, reports: list[Progress], *options: str) -> list[str]:
    """The lines on stderr of a command whose training reports this progress and ends."""

    def train(*_: object, on_progress, **__: object) -> SimpleNamespace:
        for report in reports:
            on_progress(report)
        return SimpleNamespace(metrics=[{"val_accuracy": 0.5, "epoch": 20}])

    monkeypatch.setattr("abnn_serve.lab.training.train.train", train)
    result = CliRunner().invoke(app, [*ARGUMENTS, *options])
    assert result.exit_code == 0, result.output
    return result.stderr.splitlines()


def test_the_help_names_every_recipe():
    assert sorted(RECIPES.split(", ")) == sorted(recipes.RECIPES)


def test_slow_training_prints_one_hint(monkeypatch):
    hint, *others = _train(monkeypatch, [_progress(1.0), _progress(1.0, step=40)], "--size", "224")
    assert hint == (
        "slow training: 1.0 images/s, about 12 days to go; "
        "faster with a GPU (--device cuda), a smaller --size, fewer --epochs, a smaller --target"
    )
    assert len(others) == 1


def test_slow_training_on_clips_counts_clips(monkeypatch):
    hint, *_ = _train(monkeypatch, [_progress(18.0)], "--sampling", "frames=16")
    assert hint.startswith("slow training: 18 clips/s, about 16 hours to go; ")


def test_fast_training_prints_no_hint(monkeypatch):
    assert len(_train(monkeypatch, [_progress(500.0), _progress(1.0, step=40)])) == 1


def test_compiling_is_not_taken_for_slow_training(monkeypatch):
    assert len(_train(monkeypatch, [_progress(4.0, step=1), _progress(500.0)], "--compile")) == 1
    assert len(_train(monkeypatch, [_progress(4.0, step=1)])) == 2
