"""The videos' table: ABNN and its controls on UCF-101 or any folders of videos; the substitute learns motions."""

from __future__ import annotations

from pathlib import Path

from abnn_serve.spec import InputSpec, Sampling
from benchmarks.papers.table import Preset, Row, Table

_SHORT: dict[str, object] = {"lr": 0.03}  # from trained weights

_ROWS = (
    Row(name="substitute", recipe="standard", epochs=8, pretraining=True, evaluated=False),
    Row(name="standard", recipe="standard", epochs=30),
    Row(name="abnn-scratch", recipe="abnn", epochs=30, substitute="substitute"),
    Row(name="abnn", recipe="abnn", epochs=10, init="standard", substitute="substitute", settings=_SHORT),
    Row(name="pgd-at", recipe="pgd-at", epochs=30),
    Row(name="oudefend", recipe="oudefend", epochs=30),
    Row(name="bn-at", recipe="bn-at", epochs=6, init="standard"),
)

_PRESETS = {
    "cpu": Preset(
        target="resnet3d7-w16",
        adain_target="resnet3d7-w16",
        substitute="resnet3d7-w16",
        batch_size=32,
        lr=0.1,
        scale=1,
        images=200,
        input=InputSpec(height=56, width=56, sampling=Sampling(frames=8, stride=3, clips=3)),
        eps=4 / 255,
    ),
    "gpu": Preset(
        target="resnext3d-101",
        adain_target="r3d_18",
        substitute="r3d_18",
        batch_size=32,
        lr=0.05,
        scale=2,
        images=1000,
        input=InputSpec(height=112, width=112, sampling=Sampling(frames=16, stride=2, clips=3)),
        eps=4 / 255,
    ),
}

_COLUMNS = (
    ("whitebox PGD-20", "whitebox", "PGD-20"),
    ("whitebox ROA 10%, t = 5", "whitebox", "ROA-10% t=5"),
    ("moving ROA 10%, t = 5", "whitebox", "ROA-10% t=5 moving"),
    ("graybox PGD-20", "graybox", "PGD-20"),
    ("transfer PGD-20", "transfer", "PGD-20"),
    ("transfer ROA 10%", "transfer", "ROA-10% t=5"),
)


def _sources(data: str) -> dict[str, str]:
    root, lists = Path(data, "UCF-101"), Path(data, "ucfTrainTestlist")
    if root.is_dir():
        train, test = (f"{root}:{lists / name}" for name in ("trainlist01.txt", "testlist01.txt"))
    else:
        train, test = str(Path(data, "train")), str(Path(data, "test"))
    return {"train": train, "test": test, "big": f"motions:{train}", "big_test": f"motions:{test}"}


VIDEO = Table(
    rows=_ROWS,
    presets=_PRESETS,
    columns=_COLUMNS,
    sources=_sources,
    attacks=("fgsm", "pgd", "roa", "roa-moving"),
    threats=("whitebox", "graybox", "transfer"),
    curve_images=0,
)
