"""What the papers' tables hold: their rows, the sizes of everything, and where the data lies."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from abnn_serve.card import ThreatModel
from abnn_serve.spec import InputSpec, Sampling


@dataclass(frozen=True, kw_only=True)
class Row:
    """One trained network of the table.

    `init`, `substitute` and `probe` (what an attacker with the substitute alone would make) name rows before this one;
    `epochs` are of the cpu preset; `big` rows are substitutes, pre-trained on the large data set once for all seeds;
    `evaluated` rows are in the table.
    """

    name: str
    recipe: str
    epochs: int
    init: str | None = None
    substitute: str | None = None
    form: str | None = None
    big: bool = False
    probe: str | None = None
    evaluated: bool = True
    settings: dict[str, object] = field(default_factory=dict)
    published: str = ""


_SHORT: dict[str, object] = {"lr": 0.03}  # from weights that are trained already
_WHOLE: dict[str, object] = {"trained": "all", "attack_steps": 1, "lr": 0.1}

_IMAGE_ROWS = (
    Row(name="substitute", recipe="standard", epochs=8, big=True, evaluated=False),
    Row(
        name="robust-substitute",
        recipe="fast-at",
        epochs=8,
        init="substitute",
        big=True,
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
        settings=_WHOLE,
    ),
    Row(
        name="abnn-at-conditional",
        recipe="abnn-at",
        epochs=2,
        init="standard",
        substitute="robust-substitute",
        form="conditional",
        probe="robust-probe",
        settings={**_WHOLE, "attack_eps": 7 / 255, "eps_ramp": 0.25},
    ),
)


_VIDEO_ROWS = (
    Row(name="substitute", recipe="standard", epochs=8, big=True, evaluated=False),
    Row(name="standard", recipe="standard", epochs=30),
    Row(name="abnn-scratch", recipe="abnn", epochs=30, substitute="substitute"),
    Row(name="abnn", recipe="abnn", epochs=10, init="standard", substitute="substitute", settings=_SHORT),
    Row(name="pgd-at", recipe="pgd-at", epochs=30),
    Row(name="oudefend", recipe="oudefend", epochs=30),
    Row(name="bn-at", recipe="bn-at", epochs=6, init="standard"),
)


@dataclass(frozen=True, kw_only=True)
class Preset:
    """Size of everything; `scale` multiplies the epochs of the rows, `eps` is the Linf budget."""

    target: str
    adain_target: str
    substitute: str
    batch_size: int
    lr: float
    scale: int
    images: int
    input: InputSpec = InputSpec(height=32, width=32)  # noqa: RUF009 - frozen
    eps: float = 8 / 255


_IMAGE_PRESETS = {
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

_VIDEO_PRESETS = {
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

_IMAGE_COLUMNS = (
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

_VIDEO_COLUMNS = (
    ("whitebox PGD-20", "whitebox", "PGD-20"),
    ("whitebox ROA 10%, t = 5", "whitebox", "ROA-10% t=5"),
    ("moving ROA 10%, t = 5", "whitebox", "ROA-10% t=5 moving"),
    ("graybox PGD-20", "graybox", "PGD-20"),
    ("transfer PGD-20", "transfer", "PGD-20"),
    ("transfer ROA 10%", "transfer", "ROA-10% t=5"),
)


def _image_sources(data: str) -> dict[str, str]:
    stems = {"train": "cifar10-train-*", "test": "cifar10-test"}
    stems |= {"big": "tinyimagenet32-train-*", "big_test": "tinyimagenet32-val"}
    return {name: str(Path(data) / f"{stem}.parquet") for name, stem in stems.items()}


def _video_sources(data: str) -> dict[str, str]:
    root, lists = Path(data, "UCF-101"), Path(data, "ucfTrainTestlist")
    if root.is_dir():
        train, test = (f"{root}:{lists / name}" for name in ("trainlist01.txt", "testlist01.txt"))
    else:
        train, test = str(Path(data, "train")), str(Path(data, "test"))
    return {"train": train, "test": test, "big": f"motions:{train}", "big_test": f"motions:{test}"}


@dataclass(frozen=True, kw_only=True)
class Table:
    """Its rows and presets; the attacks and threat models of its evaluation, the usual ones where none are named."""

    rows: tuple[Row, ...]
    presets: dict[str, Preset]
    columns: tuple[tuple[str, str, str], ...]
    sources: Callable[[str], dict[str, str]]
    attacks: tuple[str, ...] = ()
    threats: tuple[ThreatModel, ...] = ()
    curve_images: int = 200


TABLES = {
    "image": Table(
        rows=_IMAGE_ROWS,
        presets=_IMAGE_PRESETS,
        columns=_IMAGE_COLUMNS,
        sources=_image_sources,
    ),
    "video": Table(
        rows=_VIDEO_ROWS,
        presets=_VIDEO_PRESETS,
        columns=_VIDEO_COLUMNS,
        sources=_video_sources,
        attacks=("fgsm", "pgd", "roa", "roa-moving"),
        threats=("whitebox", "graybox", "transfer"),
        curve_images=0,
    ),
}
