"""abnn show and abnn verify: what a bundle is, and whether it is whole."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from abnn_serve.bundle.store import Bundle, load_bundle
from abnn_serve.card import RobustnessCard
from abnn_serve.codec import to_json
from abnn_serve.runtime.settings import default_bundle
from abnn_serve.runtime.verify import check_graphs


def show(
    bundle: Annotated[Path | None, typer.Argument(help="bundle directory; the default bundle if not given")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="manifest and card as JSON")] = False,
) -> None:
    """Print a bundle's identity, input, origin and robustness card.

    Example: abnn show models/cifar10-abnn-robust
    """
    found = load_bundle(bundle or default_bundle())
    if as_json:
        import json

        typer.echo(
            json.dumps(
                {"digest": found.digest, "manifest": to_json(found.manifest), "card": to_json(found.card)}, indent=2
            )
        )
    else:
        print_bundle(found)


def verify(
    bundle: Annotated[Path | None, typer.Argument(help="bundle directory; the default bundle if not given")] = None,
    digest: Annotated[str | None, typer.Option(help="identity that the bundle must have")] = None,
) -> None:
    """Check every byte of a bundle, load its graph on the CPU and replay the golden vectors; exit 1 if any differs.

    Example: abnn verify models/cifar10-abnn-robust
    """
    found = load_bundle(bundle or default_bundle(), digest=digest)
    check_graphs(found)
    files, vectors = len(found.manifest.files), len(found.golden.inputs)
    typer.echo(f"{found.path}: whole; {files} files, {vectors} golden vectors; identity {found.digest}")


def print_bundle(bundle: Bundle) -> None:
    """Print what a reader wants to know of a bundle first."""
    manifest, card, cost = bundle.manifest, bundle.card, bundle.card.training
    spec = manifest.input
    size = sum(entry.bytes for entry in manifest.files.values())
    before = "".join(
        f", {seconds:,.0f} s before that for its {what}"
        for what, seconds in (("initial weights", cost.init_seconds), ("substitute", cost.substitute_seconds))
        if seconds is not None
    )
    epochs = f"{cost.epochs} epoch{'s' * (cost.epochs > 1)}" if cost.epochs else "a mean of finished runs"
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
        ("adaptive", f"{len(manifest.pairs)} layers" if manifest.pairs else "none: an undefended network"),
        ("parity", f"largest logit error {manifest.parity.max_error:.1e} on {manifest.parity.images:,} images"),
        (
            "training",
            f"{cost.recipe}, {epochs}, {cost.passes_per_step}N, {cost.seconds:,.0f} s{before}; " + cost.hardware,
        ),
        ("clean", str(card.clean) if card.clean else "not measured"),
        *((f"{a.threat_model}", f"{a.attack}, {a.norm} eps {a.eps:.4g}: {a.accuracy}") for a in card.attacks),
        *((threat, f"worst of all attacks but patches: {accuracy}") for threat, accuracy in card.worst.items()),
        *(
            (v.precision, f"on {v.provider}: clean {v.clean}; white-box images {v.robust or 'not measured'}")
            for v in card.variants
        ),
        *_drift_rows(card),
        *(("sanity", f"{check.check}: {check.detail}") for check in card.sanity if check.raised),
        *(("limit", limit) for limit in card.limits),
    ]
    width = max(len(name) for name, _ in rows)
    for name, value in rows:
        typer.echo(f"{name:<{width}} {value}")


def _drift_rows(card: RobustnessCard) -> list[tuple[str, str]]:
    drift = card.drift
    if drift is None:
        return []
    clean = f"median {drift.median:.2f}, 95% below {drift.p95:.2f} on {drift.images:,} clean images"
    return [
        ("drift", clean),
        *(("drift", f"{a.attack}, eps {a.eps:.4g}: AUROC {a.auroc:.3f} on {a.images:,} images") for a in drift.attacks),
    ]
