"""What the sign of query attacks is worth."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class QueryAttacks:
    """What the service's sign of query attacks, `ABNN_NEAR_DUPLICATES`, is worth; measured through HTTP.

    Attributes:
        attack: name of the attack.
        queries: of the attack for one image, at most.
        images: attacked images, each under an API key of its own.
        noticed_after: queries until it was noticed, median of the images that it did not break earlier; None if it was
            not noticed.
        broken: images that it breaks with logits for every answer.
        broken_label_only: the same with labels alone once it is noticed.
        data: name of the innocent images, sent in random order under one key.
        innocent: how many.
        false_alarms: how many of them were taken for an attack.
        frames: frames of innocent videos, each video under a key of its own.
        false_frames: how many of them were taken for an attack.
    """

    attack: str
    queries: int
    images: int
    noticed_after: float | None
    broken: int
    broken_label_only: int
    data: str
    innocent: int
    false_alarms: int
    frames: int
    false_frames: int

    def __str__(self) -> str:
        after = "not at all" if self.noticed_after is None else f"after {self.noticed_after:g} queries"
        return (
            f"Query attacks: the service's near-duplicate count notices {self.attack} under one key {after} (median of "
            f"{self.images} images, {self.queries:,} queries each; it breaks {self.broken} of them, "
            f"{self.broken_label_only} if it then gets labels alone). It mistakes {self.false_alarms:,} of "
            f"{self.innocent:,} images of {self.data} and {self.false_frames:,} of {self.frames:,} frames of videos "
            "for an attack. It slows an attacker with one key; it is not a defence."
        )
