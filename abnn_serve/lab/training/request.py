"""A training run as the user requests it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import get_args

from abnn_serve.answer import mask_set
from abnn_serve.errors import ConfigError
from abnn_serve.lab.abnn.adaptive_norm import Form
from abnn_serve.lab.abnn.plan import SurgeryPlan
from abnn_serve.lab.training.recipe import Recipe
from abnn_serve.spec import InputSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainRequest:
    """A training run as the user requests it; networks are named as in `build_network`, data as in `load_data`.

    Attributes:
        form, rank: of the adaptive layers; None takes the defaults of `plan_pairs`. A plan or an ABNN run has its own.
        target: name of the network; None takes that of `init`.
        teacher: finished run, bundle or name of a network that the loss compares with: its predictions, weighted by
            `teacher_weight`, or its features, weighted by `feature_weight`.
        init: finished run, or bundle with weights, to start from. An ABNN run provides target, substitute and plan; a
            plain run provides the target's weights, without the head if the classes differ.
    """

    recipe: Recipe
    data: str
    val: str
    input: InputSpec
    target: str | None = None
    init: str | None = None
    substitute: str | None = None
    teacher: str | None = None
    plan: SurgeryPlan | None = None
    form: Form | None = None
    rank: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if self.form not in (None, *get_args(Form)):
            raise ConfigError(f"form is {self.form!r}, expected one of {', '.join(get_args(Form))}")
        if self.recipe.fine_tunes and self.init is None:
            raise ConfigError(f"recipe {self.recipe.name!r} needs --init RUN, the finished run to start from")
        if self.target is None and self.init is None:
            raise ConfigError("no network to train; give --target NAME, or --init RUN to start from a finished run")
        if self.recipe.adaptive and self.substitute is None and self.init is None:
            raise ConfigError(f"recipe {self.recipe.name!r} needs --substitute, a network's name or a finished run")
        if not self.recipe.adaptive and (options := self.adaptive_options):
            raise ConfigError(f"recipe {self.recipe.name!r} takes no {options[0]}; did you mean 'abnn'?")
        if self.recipe.has_teacher != bool(self.teacher):
            raise ConfigError(
                "--teacher and --set teacher_weight=1 (or feature_weight=20) go together; give both or neither"
            )
        if self.recipe.masking:
            patch = (self.recipe.masking, self.recipe.masking)
            mask_set((self.input.height, self.input.width), patch, self.recipe.mask_grid)
        if self.plan and (self.form or self.rank):
            raise ConfigError("--plan already sets form and rank of the adaptive layers; leave out --form and --rank")

    @property
    def adaptive_options(self) -> list[str]:
        """Command-line names of the options about adaptive layers that were given."""
        names = ("substitute", "plan", "form", "rank")
        return [f"--{name}" for name in names if getattr(self, name) is not None]
