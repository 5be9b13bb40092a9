"""Certify a run or a bundle: accuracy with a proof, against patch size or L2 radius, for its card."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from abnn_serve.answer import Answer, Masks, Noise, parse_patch, rectangle
from abnn_serve.arrays import batch_slices
from abnn_serve.bundle.store import Bundle, with_card
from abnn_serve.card import Accuracy, Certification, CertifiedPoint
from abnn_serve.codec import canonical, to_json
from abnn_serve.errors import ConfigError
from abnn_serve.evaluation.certificates import Certificates, certify_all, open_logits
from abnn_serve.evaluation.opening import output_folder
from abnn_serve.evaluation.plots import draw_certified
from abnn_serve.evaluation.subject import OpenedSubject, open_subject
from abnn_serve.evaluation.workers import check_jobs, share_work
from abnn_serve.files import atomic_write
from abnn_serve.hardware import describe_cpu
from abnn_serve.lab.data.dataset import ImageData
from abnn_serve.lab.data.load import agree, load_data
from abnn_serve.lab.training.views import fill_of
from abnn_serve.runtime.rules.base import Logits, answer_all
from abnn_serve.runtime.rules.choose import make_rule

AREAS = (0.01, 0.05, 0.1)  # of the patches besides the rule's own
RADII = (0.0, 0.125, 0.25, 0.375, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0)
_TIMED = 10  # samples

Budget = tuple[tuple[int, int] | None, float | None]  # height and width of a patch, or an L2 radius


def certify(
    path: str | Path,
    data: str,
    *,
    patches: Sequence[str] = (),
    sigma: float | None = None,
    k: int = 3,
    copies: int = 1000,
    images: int = 1000,
    jobs: int = 1,
    out: str | Path | None = None,
    on_start: Callable[[Sequence[Budget]], None] = lambda _: None,
    on_progress: Callable[[int, int], None] = lambda *_: None,
) -> Certification:
    """Measure how many samples are classified correctly with a proof.

    The folder `out` gets certification.json and certified.png. A bundle's card is replaced too, which changes the
    bundle's identity. If it is killed, call it again: it resumes from the batches kept in `out`.

    Args:
        path: a bundle with an answer rule, or a finished run.
        data: held-out data in any form that `load_data` reads; for a bundle, the data its card was measured on.
        patches: patch sizes, as `parse_patch` reads them; by default 1%, 5% and 10% of the area. A bundle's own is
            always added.
        sigma: for a run, certify its answers under noise of this standard deviation instead of masks.
        k: for a run, masks along each axis.
        copies: for a run, noisy copies for a certificate.
        images: samples to certify, evenly spaced.
        jobs: number of processes, each with one thread; the results are the same for any number.
        out: folder for the results; by default as for `evaluate`.
        on_start: called with the patch or radius of each point of the curve, before anything is computed.
        on_progress: called with the number of certificates computed and the number in all.

    Raises:
        ConfigError: the bundle has no answer rule, an option does not fit, or `data` is not held out.
    """
    check_jobs(jobs)
    opened = open_subject(path)
    answers = _answers(opened, patches, sigma, k, copies)
    on_start([budget for answer in answers for budget in _budgets(answer)])
    dataset = agree(opened.labels, load_data(data, opened.input))
    opened.check_data(dataset)
    subset = dataset.spread(images)
    folder = Path(out) if out else output_folder(path)
    weights = opened.bundle.path / "model.onnx" if opened.bundle else Path(path) / "weights.pt"
    logits, reopen = open_logits(Path(path)), partial(open_logits, Path(path))
    with share_work(logits, reopen, jobs) as workers:
        results = certify_all(
            answers,
            subset,
            identity=hashlib.sha256(weights.read_bytes()).hexdigest(),
            workers=workers,
            store=folder / "certificates",
            on_progress=on_progress,
        )
        certification = summarise(answers, results, subset, logits)
    with atomic_write(folder / "certification.json") as file:
        file.write(canonical(to_json(certification)))
    draw_certified(certification, folder / "certified.png")
    if opened.bundle:
        with_card(opened.bundle, replace(opened.bundle.card, certification=certification))
    return certification


def summarise(
    answers: Sequence[Answer], results: Sequence[Certificates], data: ImageData, logits: Logits
) -> Certification:
    """The card's section from the certificates of each rule, the bundle's or requested one first."""
    rule, own = answers[0], results[0]
    points = []
    for answer, result in zip(answers, results, strict=True):
        correct = result.labels == data.labels
        clean = Accuracy.of(correct)
        for patch, radius in _budgets(answer):
            reached = result.certified if radius is None else result.certified & (result.radii >= radius)
            certified = Accuracy.of(correct & reached)
            points.append(CertifiedPoint(patch=patch, radius=radius, clean=clean, certified=certified))
    plain = np.concatenate(
        [logits(data.images[part]).argmax(axis=1) for part in batch_slices(len(data), data.chunk(64))]
    )
    (answer_passes, answer_seconds), (_, certificate_seconds) = (
        _time(logits, rule, data, certify=certify) for certify in (False, True)
    )
    return Certification(
        rule=rule,
        plain=Accuracy.of(plain == data.labels),
        points=tuple(sorted(points, key=lambda point: point.budget)),
        uncertified=int((~own.certified).sum()),
        confidence=1 - rule.noise.alpha if rule.noise else 1.0,
        answer_passes=answer_passes,
        certificate_passes=round(float(own.passes.mean()), 2),
        answer_seconds=answer_seconds,
        certificate_seconds=certificate_seconds,
        hardware=describe_cpu(),
    )


def _time(logits: Logits, answer: Answer, data: ImageData, *, certify: bool) -> tuple[float, float]:
    """Mean passes, and mean seconds, of single samples."""
    rule, samples = make_rule(answer, (data.images.shape[-3], data.images.shape[-2])), data.spread(_TIMED).images
    answer_all(rule, samples[:1], logits, certify=certify)  # a first pass fills caches
    started = time.perf_counter()
    passes = [answer_all(rule, sample[None], logits, certify=certify)[0].passes for sample in samples]
    return round(float(np.mean(passes)), 2), round((time.perf_counter() - started) / len(samples), 5)


def _budgets(answer: Answer) -> list[Budget]:
    """The points of the curve that a rule gives."""
    if answer.masks:
        return [(answer.masks.patch, None)]
    return [(None, radius) for radius in RADII if answer.noise and radius <= 4 * answer.noise.sigma]


def _answers(
    opened: OpenedSubject, patches: Sequence[str], sigma: float | None, k: int, copies: int
) -> tuple[Answer, ...]:
    """The rules to certify by, the bundle's own or the first requested one first."""
    size = (opened.input.height, opened.input.width)
    sizes = [parse_patch(text, size) for text in patches] or [rectangle(area, *size) for area in AREAS]
    if opened.bundle:
        first = _bundle_rule(opened.bundle, patches, sigma)
    elif sigma is not None:
        if patches:
            raise ConfigError("--patch and --sigma are two rules, expected one of them")
        first = Answer(noise=Noise(sigma=sigma, n=copies))
    else:
        assert opened.run is not None  # noqa: S101
        fill = [round(255 * value) for value in fill_of(opened.run.network()).tolist()]
        first = Answer(masks=Masks(patch=sizes[0], k=k, fill=(fill[0], fill[1], fill[2])))
    if first.masks is None:
        return (first,)
    answers = [replace(first, masks=replace(first.masks, patch=patch)) for patch in (first.masks.patch, *sizes)]
    for answer in answers:
        answer.check_size(*size)
    return tuple(dict.fromkeys(answers))


def _bundle_rule(bundle: Bundle, patches: Sequence[str], sigma: float | None) -> Answer:
    rule = bundle.manifest.answer
    if rule is None:
        raise ConfigError(
            f"{bundle.path} has no answer rule, so none of its answers has a proof; export it with "
            "--answer masks:patch=5,k=3 or noise:sigma=0.25, or certify its run"
        )
    if sigma is not None or (rule.noise and patches):
        raise ConfigError(f"{bundle.path} answers with {rule}; --patch is for masks, --sigma for a run")
    return rule
