"""What a table of a paper consists of: rows, presets and columns."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from abnn_serve.card import ThreatModel
from abnn_serve.lab.abnn.adaptive_norm import Form
from abnn_serve.spec import InputSpec


@dataclass(frozen=True, kw_only=True)
class Row:
    """One trained network of a table.

    Attributes:
        name: also the name of its run.
        recipe: a recipe of `abnn train`.
        epochs: in the cpu preset, before `scale`.
        target: the network, the preset's if None.
        init: the row whose weights training starts from, which stands before this one.
        substitute: the row that serves as substitute, which stands before this one.
        form: form of the adaptive layers, the recipe's if None.
        pretraining: a substitute, trained on the large data set, once for all seeds.
        probe: the row of a classifier that an attacker could make from the substitute alone.
        evaluated: whether the table shows it.
        settings: changes to the recipe.
        published: the paper's figures.
    """

    name: str
    recipe: str
    epochs: int
    target: str | None = None
    init: str | None = None
    substitute: str | None = None
    form: Form | None = None
    pretraining: bool = False
    probe: str | None = None
    evaluated: bool = True
    settings: dict[str, object] = field(default_factory=dict)
    published: str = ""


@dataclass(frozen=True, kw_only=True)
class Preset:
    """Networks, data sizes and budget.

    Attributes:
        target: the network of most rows.
        adain_target: the network of rows of form `adain`.
        substitute: the network of pretrained rows.
        batch_size: in training.
        lr: learning rate of rows that train all weights.
        scale: multiplies the rows' epochs.
        images: samples to attack.
        input: the networks' input.
        eps: Linf budget, in units of [0, 1] pixels.
    """

    target: str
    adain_target: str
    substitute: str
    batch_size: int
    lr: float
    scale: int
    images: int
    input: InputSpec = InputSpec(height=32, width=32)  # noqa: RUF009 - frozen
    eps: float = 8 / 255


@dataclass(frozen=True, kw_only=True)
class Table:
    """A paper's table.

    Attributes:
        rows: in the order in which they are trained.
        presets: by name.
        columns: heading, threat model and attack of each; no attack is the worst one for each image.
        sources: from the data's folder to the sources `train`, `test`, `big` (pretraining) and `big_test`.
        attacks: names of attacks; empty for the usual ones.
        threats: threat models; empty for all available.
        curve_images: samples for the curves of accuracy; 0 omits them.
    """

    rows: tuple[Row, ...]
    presets: dict[str, Preset]
    columns: tuple[tuple[str, str, str], ...]
    sources: Callable[[str], dict[str, str]]
    attacks: tuple[str, ...] = ()
    threats: tuple[ThreatModel, ...] = ()
    curve_images: int = 200
