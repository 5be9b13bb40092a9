"""An endpoint as a model that is evaluated: asked in parallel, within its budget, and checked for changes."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray

from abnn_serve.arrays import batch_slices
from abnn_serve.card import Accuracy, EndpointUse, RobustnessCard, SanityCheck
from abnn_serve.errors import ConfigError
from abnn_serve.evaluation.endpoints.answers import Answers
from abnn_serve.evaluation.endpoints.endpoint import Endpoint
from abnn_serve.evaluation.endpoints.options import EndpointOptions
from abnn_serve.evaluation.endpoints.usage import Usage
from abnn_serve.evaluation.foreign.open import check_not_chance
from abnn_serve.evaluation.outcomes import Trial
from abnn_serve.evaluation.threats import Subject
from abnn_serve.lab.data.dataset import ImageData
from abnn_serve.lab.data.load import agree
from abnn_serve.spec import InputSpec, Labels

BATCH = 16  # images whose attack is kept together: what a kill loses
FIRST = 64  # images for the first accuracy and the speed
REPEATED = 8  # of them, asked twice and again at the end
_SAME = 0.02  # see Answers.difference
_SANITY = 2 * 64 + 8 + 8  # queries of the sanity checks and of the picture


class EndpointModel:
    """An endpoint, what the user said about it, and what it has been asked.

    Attributes:
        seconds: time for one image; 0 before `prepare`.
    """

    def __init__(self, endpoint: Endpoint, options: EndpointOptions, usage: Usage, labels: Labels | None) -> None:
        self.endpoint, self.options, self.usage, self._labels = endpoint, options, usage, labels
        self.seconds = 0.0
        self._pool = ThreadPoolExecutor(options.concurrency, "endpoint")
        self._answers = Answers(address=endpoint.address, scores="logits", classes=0)
        self._first = np.zeros((0, endpoint.height, endpoint.width, 3), np.uint8)

    @property
    def input(self) -> InputSpec:
        """What `load_data` resizes images to."""
        return InputSpec(height=self.endpoint.height, width=self.endpoint.width)

    def prepare(self, data: ImageData) -> tuple[Labels, ImageData]:
        """Ask for some images, and find what the endpoint answers; returns the class names, and the data with them.

        Raises:
            ConfigError: another number of classes than there are labels, accuracy as by chance, answers that change.
            DataError: `data` has other classes.
        """
        few = data.spread(FIRST)
        started = time.perf_counter()
        answers = self._ask(few.images)
        self.seconds = (time.perf_counter() - started) / len(few)
        labels = self._labels or (Labels(names=self.endpoint.names) if self.endpoint.names else data.classes)
        self._answers = Answers.learn(self.endpoint.address, answers, labels, labels_only=self.options.labels_only)
        self._first = few.images[:REPEATED]
        logits = self._answers.logits(answers)
        self._check_repeatable(logits[:REPEATED])
        is_correct = logits.argmax(axis=1) == agree(labels, few).labels
        check_not_chance(Accuracy.of(is_correct), len(labels))
        return labels, agree(labels, data)

    def logits(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """uint8 (N, H, W, 3) to logits, float32 (N, classes): the mean of `repeats` answers."""
        rows = [self._answers.logits(self._ask(pixels)) for _ in range(self.options.repeats)]
        mean: NDArray[np.float32] = np.mean(rows, axis=0)
        return mean

    def subject(self) -> Subject:
        """The subject: queries alone."""
        return Subject(
            network=None,
            served=self.logits,
            served_digest=self._identity,
            labels_only=self._answers.scores == "labels",
            batch=BATCH,
            draws=self.options.repeats,
        )

    def check_budget(self, images: int, trials: Sequence[Trial], *, corruptions: bool) -> int:
        """Queries that an evaluation takes, at most; ConfigError if they exceed the budget."""
        for_each = 1 + sum(trial.attack.passes.queries + 2 for trial in trials) + 75 * corruptions
        others = FIRST + 3 * REPEATED + (_SANITY if trials else 0)
        needed = (images * for_each + others) * self.options.repeats
        budget = self.options.max_queries
        if budget is not None and needed > budget:
            fit = (budget // self.options.repeats - others) // for_each
            advice = f"attack fewer images with -n {fit}, " if fit >= 2 else ""
            raise ConfigError(
                f"{images:,} images take up to {needed:,} queries, but --max-queries is {budget:,}: {advice}use fewer "
                "--queries for each image, or raise it"
            )
        return needed

    def check_unchanged(self) -> SanityCheck:
        """Whether the endpoint still answers as it did at the start."""
        difference = self._answers.difference(self.logits(self._first), self._recorded)
        return SanityCheck.of(
            "the endpoint answers at the end as at the start",
            passed=difference <= _SAME,
            detail=f"the answers to {len(self._first)} images differ by {difference:.2g}",
        )

    def close(self) -> None:
        """Write what was asked, and close connections and threads."""
        self.usage.save()
        self._pool.shutdown(cancel_futures=True)
        self.endpoint.close()

    def card(self, data: ImageData) -> RobustnessCard:
        """The card to fill in."""
        digest = hashlib.sha256(self.endpoint.identity.encode()).hexdigest()
        return RobustnessCard(model_sha256=digest, data=data.name, data_digest=data.digest, clean=None, training=None)

    def row(self) -> EndpointUse:
        """What was asked, for the card."""
        usage = self.usage
        return EndpointUse(
            address=self.endpoint.address,
            protocol=self.endpoint.protocol,
            scores=self._answers.scores,
            repeats=self.options.repeats,
            queries=usage.queries,
            requests=usage.requests,
            answers=dict(sorted(usage.answers.items())),
            waited=round(usage.waited, 1),
        )

    def _ask(self, pixels: NDArray[np.uint8]) -> NDArray[Any]:
        """Answers to all pixels, in parallel requests."""

        def ask(batch: slice) -> NDArray[Any]:
            self.usage.spend(len(pixels[batch]))
            return self.endpoint.ask(pixels[batch])

        parts = list(self._pool.map(ask, batch_slices(len(pixels), self.endpoint.per_request)))
        if len({part.shape[1:] for part in parts}) > 1 or sum(len(part) for part in parts) != len(pixels):
            shapes = ", ".join(sorted({str(part.shape) for part in parts}))
            raise ConfigError(f"{self.endpoint.address} answers with arrays of {shapes} for {len(pixels)} images")
        return np.concatenate(parts)

    @property
    def _identity(self) -> str:
        how = f"{self.endpoint.identity} {self._answers.scores} {self.options.repeats}"
        return hashlib.sha256(how.encode()).hexdigest()

    @property
    def _recorded(self) -> NDArray[np.float32]:
        return np.array(self.usage.first_answers[self._identity], np.float32)

    def _check_repeatable(self, first: NDArray[np.float32]) -> None:
        """ConfigError if the endpoint answers differently when asked again, now or since an interrupted call."""
        again = self.logits(self._first)
        difference = self._answers.difference(first, again)
        if difference > _SAME and self.options.repeats == 1:
            raise ConfigError(
                f"{self.endpoint.address} changes its answer: two answers to the same {len(first)} images differ by "
                f"{difference:.2g}; of a random model, --eot K takes the mean of K answers"
            )
        if self._identity not in self.usage.first_answers:
            self.usage.first_answers[self._identity] = again.tolist()
        elif self._recorded.shape != again.shape or (
            self._answers.difference(self._recorded, again) > _SAME and self.options.repeats == 1
        ):
            raise ConfigError(
                f"{self.endpoint.address} answers differently from when this evaluation began: another model may have "
                "taken its place; start again with another --out"
            )
