"""What attacks by queries share: a number of queries for each sample, and no gradient."""

from __future__ import annotations

from dataclasses import dataclass

from abnn_serve.errors import ConfigError
from abnn_serve.lab.attacks.base import Attack, Passes


@dataclass(frozen=True, slots=True, kw_only=True)
class QueryAttack(Attack):
    """An attack that only asks the model for answers.

    Attributes:
        queries: number of queries for each sample, at least 1.
    """

    queries: int = 1000

    def __post_init__(self) -> None:
        super(QueryAttack, self).__post_init__()
        if self.queries < 1:
            raise ConfigError(f"{type(self).__name__} has {self.queries} queries, expected at least 1")

    @property
    def name(self) -> str:
        """Such as Square-1000, with the number of queries."""
        return f"{type(self).__name__}-{self.queries}"

    @property
    def passes(self) -> Passes:
        return Passes(queries=self.queries)

    def passes_if_broken(self, *, early_stop: bool) -> Passes:
        """A fifth of the queries: of 1,000, Square took 170 on average to break an undefended network."""
        return Passes(queries=self.queries // 5) if early_stop else self.passes

    @property
    def needs_gradient(self) -> bool:
        return False
