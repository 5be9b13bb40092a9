"""The recipes' table: one network and one budget for every way of adversarial training, judged on held-out images."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from benchmarks.papers.image import IMAGE
from benchmarks.papers.table import Row, Table

_MUON: dict[str, object] = {"optimizer": "muon", "momentum": 0.6, "lr": 0.08}
_STEPS: dict[str, object] = {"attack_steps": 3}  # instead of 5 and 10, at which a row takes hours

_ROWS = (
    Row(name="standard", recipe="standard", epochs=12),
    Row(name="n-fgsm", recipe="n-fgsm", epochs=12),
    Row(name="n-fgsm-muon", recipe="n-fgsm", epochs=12, settings=_MUON),
    Row(name="nuat", recipe="nuat", epochs=12),
    Row(name="n-fgsm-silu", recipe="n-fgsm", epochs=12, target="resnet10-w16-silu"),
    Row(name="n-fgsm-awp", recipe="n-fgsm", epochs=12, settings={"weight_perturbation": 0.005}),
    Row(name="n-fgsm-distilled", recipe="n-fgsm", epochs=12, settings={"self_distillation": 0.7}),
    Row(name="n-fgsm-photometric", recipe="n-fgsm", epochs=12, settings={"photometric": 0.25}),
    Row(name="fast-at", recipe="fast-at", epochs=12),
    Row(name="pgd-at", recipe="pgd-at", epochs=12, settings=_STEPS),
    Row(name="trades", recipe="trades", epochs=12, settings=_STEPS),
)

_CPU = IMAGE.presets["cpu"]

_COLUMNS = (
    ("FGSM", "whitebox", "FGSM"),
    ("PGD-20", "whitebox", "PGD-20"),
    ("PGD-20 on the margin", "whitebox", "PGD-20-margin"),
    ("worst for each image", "whitebox", ""),
)


def _sources(data: str) -> dict[str, str]:
    images = Path(data, "cifar10-train-*.parquet")
    train, held_out = f"{images}[:20480]", f"{images}[48000:]"
    return {"train": train, "test": held_out, "big": train, "big_test": held_out}


RECIPES = Table(
    rows=_ROWS,
    presets={"cpu": _CPU, "gpu": replace(_CPU, target="cifar-resnet18", scale=2, images=2000)},
    columns=_COLUMNS,
    sources=_sources,
    attacks=("fgsm", "pgd", "pgd-margin"),
    threats=("whitebox",),
    curve_images=0,
)
