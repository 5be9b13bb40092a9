"""abnn show and abnn verify: print a bundle's manifest and card, and verify its files and graphs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from abnn_serve.bundle.signature import verify_signature
from abnn_serve.bundle.store import Bundle, load_bundle
from abnn_serve.card import RobustnessCard
from abnn_serve.cli.certify import budget
from abnn_serve.cli.terminal import echo
from abnn_serve.codec import to_json
from abnn_serve.runtime.settings import default_bundle
from abnn_serve.runtime.verify import check_graphs


def show(
    bundle: Annotated[Path | None, typer.Argument(help="bundle directory; the default bundle if omitted")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print the manifest and the card as JSON")] = False,
) -> None:
    """Print a bundle's identity, origin and robustness card.

    Example: abnn show models/cifar10-abnn-robust
    """
    loaded = load_bundle(bundle or default_bundle())
    if as_json:
        value = {"digest": loaded.digest, "manifest": to_json(loaded.manifest), "card": to_json(loaded.card)}
        typer.echo(json.dumps(value, indent=2))
    else:
        print_bundle(loaded)


def verify(
    bundle: Annotated[Path | None, typer.Argument(help="bundle directory; the default bundle if omitted")] = None,
    digest: Annotated[str | None, typer.Option(help="expected identity of the bundle")] = None,
    key: Annotated[
        list[Path] | None, typer.Option(help="PEM file of a public key that must have signed the bundle; repeatable")
    ] = None,
) -> None:
    """Check a bundle's files and replay its golden vectors.

    Compares every file with its sha256 and runs the vectors on the CPU; exits 1 on a difference. With --key, first
    check the signature that `abnn sign` wrote.

    Example: abnn verify models/cifar10-abnn-robust
    """
    loaded = load_bundle(bundle or default_bundle(), digest=digest)
    if key:
        echo(f"{loaded.path}: signed by {verify_signature(loaded, key)}")
    check_graphs(loaded)
    files, vectors = len(loaded.manifest.files), len(loaded.golden.inputs)
    echo(f"{loaded.path}: verified {files} files and {vectors} golden vectors; identity {loaded.digest}")


def print_bundle(bundle: Bundle) -> None:
    """Print a bundle's identity, input, classes, training cost and robustness card, one item a line."""
    manifest, card = bundle.manifest, bundle.card
    spec = manifest.input
    size = sum(entry.bytes for entry in manifest.files.values())
    rows = [
        (
            "bundle",
            f"{manifest.name}, version {manifest.version}, {size / 1e6:.1f} MB, {', '.join(manifest.precisions)}",
        ),
        ("identity", bundle.digest),
        (
            "input",
            f"uint8 (N, {', '.join(map(str, spec.shape))}), fit {spec.fit}, {spec.interpolation}"
            + (f", {spec.sampling}" if spec.sampling else ""),
        ),
        (
            "classes",
            f"{len(bundle.labels)}: {', '.join(bundle.labels.names[:10])}{', ...' if len(bundle.labels) > 10 else ''}",
        ),
        ("adaptive", f"{len(manifest.pairs)} layers" if manifest.pairs else "none: a plain network"),
        ("answer", str(manifest.answer or "one plain pass")),
        ("parity", f"largest logit error {manifest.parity.max_error:.1e} on {manifest.parity.images:,} images"),
        *_training_rows(card),
        ("clean", str(card.clean) if card.clean else "not measured"),
        *((f"{a.threat_model}", f"{a.attack}, {a.norm} eps {a.eps:.4g}: {a.accuracy}") for a in card.attacks),
        *((threat, f"worst case without patches: {accuracy}") for threat, accuracy in card.worst.items()),
        *(
            (v.precision, f"on {v.provider}: clean {v.clean}; white-box images: {v.robust or 'not measured'}")
            for v in card.variants
        ),
        *calibration_rows(bundle),
        *_certified_rows(card),
        *_corruption_rows(card),
        *_drift_rows(card),
        *(("FAILED", f"{check.name} ({check.detail})") for check in card.sanity if not check.passed),
        *(("limit", limit) for limit in card.sentences),
    ]
    width = max(len(name) for name, _ in rows)
    for name, value in rows:
        echo(f"{name:<{width}} {value}")


def calibration_rows(bundle: Bundle) -> list[tuple[str, str]]:
    """The temperature of a bundle and what it does to the calibration error, as rows of `abnn show`."""
    calibration, result = bundle.manifest.calibration, bundle.card.calibration
    if calibration is None or result is None:
        return []
    error = f"calibration error {result.ece_before:.2%} before, {result.ece_after:.2%} after"
    rows = [("calibrated", f"temperature {calibration.temperature:.4g}: {error}, on {result.measured:,} others")]
    if calibration.abstain_below is not None:
        share = f"{result.abstained or 0:,} of {result.measured:,}"
        rows.append(("abstains", f"below {calibration.abstain_below:g}: {share}; of the rest {result.answered}"))
    return rows


def _certified_rows(card: RobustnessCard) -> list[tuple[str, str]]:
    if card.certification is None:
        return []
    masks = card.certification.rule.masks
    own = [point for point in card.certification.points if masks is None or point.patch == masks.patch]
    return [("certified", f"{budget(point)}: {point.certified}") for point in own]


def _training_rows(card: RobustnessCard) -> list[tuple[str, str]]:
    cost = card.training
    if cost is None:
        return []
    earlier = "".join(
        f", plus {seconds:,.0f} s for its {part}"
        for part, seconds in (("initial weights", cost.init_seconds), ("substitute", cost.substitute_seconds))
        if seconds is not None
    )
    epochs = f"{cost.epochs} epoch{'s' * (cost.epochs > 1)}" if cost.epochs else "average of finished runs"
    took = f"{cost.recipe}, {epochs}, {cost.passes_per_step}N, {cost.seconds:,.0f} s{earlier}; {cost.hardware}"
    return [("training", took)]


def _corruption_rows(card: RobustnessCard) -> list[tuple[str, str]]:
    if card.corruptions is None:
        return []
    low, high = card.corruptions.interval
    relative = "" if card.corruptions.mce is None else f"; mCE {card.corruptions.mce:.1%} of the twin's error"
    count = card.corruptions.results[0].accuracy.n
    mean = f"{card.corruptions.mean:.1%} (95%: {low:.1%} to {high:.1%})"
    return [("corruptions", f"mean of {card.corruptions.constants}'s on {count:,} images: {mean}{relative}")]


def _drift_rows(card: RobustnessCard) -> list[tuple[str, str]]:
    drift = card.drift
    if drift is None:
        return []
    clean = f"median {drift.median:.2f}, 95% below {drift.p95:.2f} on {drift.images:,} clean images"
    return [
        ("drift", clean),
        *(("drift", f"{a.attack}, eps {a.eps:.4g}: AUROC {a.auroc:.3f} on {a.images:,} images") for a in drift.attacks),
    ]
