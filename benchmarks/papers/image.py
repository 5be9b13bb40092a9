"""The images' table: ABNN and its controls on CIFAR-10, with a substitute trained on TinyImageNet."""

from __future__ import annotations

from pathlib import Path

from benchmarks.papers.table import Preset, Row, Table

_SHORT: dict[str, object] = {"lr": 0.03}  # from trained weights
_ALL_WEIGHTS: dict[str, object] = {"trained": "all", "attack_steps": 1, "lr": 0.1}

_ROWS = (
    Row(name="substitute", recipe="standard", epochs=8, pretraining=True, evaluated=False),
    Row(
        name="robust-substitute",
        recipe="fast-at",
        epochs=8,
        init="substitute",
        pretraining=True,
        evaluated=False,
        settings={"optimizer": "muon", "momentum": 0.6, "lr": 0.06, "eps_ramp": 0.3, "batch_size": 256},
    ),
    Row(name="standard", recipe="standard", epochs=30, settings={"cutout": 8}, published="93.4 / 0.0 at 2N"),
    Row(name="probe", recipe="probe", epochs=3, init="substitute", evaluated=False),
    Row(
        name="abnn-scratch",
        recipe="abnn",
        epochs=10,
        substitute="substitute",
        probe="probe",
        published="87.5 / 31.5 at 3N",
    ),
    Row(
        name="abnn",
        recipe="abnn",
        epochs=7,
        init="standard",
        substitute="substitute",
        probe="probe",
        settings=_SHORT,
    ),
    Row(
        name="abnn-conditional",
        recipe="abnn",
        epochs=3,
        init="standard",
        substitute="substitute",
        form="conditional",
        probe="probe",
        settings=_SHORT,
    ),
    Row(name="abnn-adain", recipe="abnn", epochs=5, substitute="substitute", probe="probe", form="adain"),
    Row(
        name="pgd-at", recipe="pgd-at", epochs=4, init="standard", settings={"lr": 0.1}, published="83.3 / 51.6 at 12N"
    ),
    Row(name="fast-at", recipe="fast-at", epochs=3, init="standard", settings={"lr": 0.1}),
    Row(name="bn-at", recipe="bn-at", epochs=2, init="standard"),
    Row(name="bn-head-at", recipe="bn-at", epochs=2, init="standard", settings={"trained": "norm+head"}),
    Row(name="bn-at-scratch", recipe="bn-at-scratch", epochs=2),
    Row(name="robust-probe", recipe="probe", epochs=3, init="robust-substitute"),
    Row(
        name="abnn-robust",
        recipe="abnn",
        epochs=7,
        init="standard",
        substitute="robust-substitute",
        probe="robust-probe",
        settings=_SHORT,
    ),
    Row(name="abnn-at", recipe="abnn-at", epochs=2, init="abnn-robust", probe="robust-probe"),
    Row(
        name="abnn-at-whole",
        recipe="abnn-at",
        epochs=2,
        init="standard",
        substitute="robust-substitute",
        probe="robust-probe",
        settings=_ALL_WEIGHTS,
    ),
    Row(
        name="abnn-at-conditional",
        recipe="abnn-at",
        epochs=2,
        init="standard",
        substitute="robust-substitute",
        form="conditional",
        probe="robust-probe",
        settings={**_ALL_WEIGHTS, "attack_eps": 7 / 255, "eps_ramp": 0.25},
    ),
)

_PRESETS = {
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

_COLUMNS = (
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


def _sources(data: str) -> dict[str, str]:
    stems = {"train": "cifar10-train-*", "test": "cifar10-test"}
    stems |= {"big": "tinyimagenet32-train-*", "big_test": "tinyimagenet32-val"}
    return {name: str(Path(data) / f"{stem}.parquet") for name, stem in stems.items()}


IMAGE = Table(rows=_ROWS, presets=_PRESETS, columns=_COLUMNS, sources=_sources)
