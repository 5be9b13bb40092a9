"""Attack a run or a bundle under every available threat model, and write its robustness card."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from abnn_serve.bundle.store import pack_json, with_card
from abnn_serve.card import RobustnessCard, ThreatModel
from abnn_serve.errors import ConfigError
from abnn_serve.evaluation.bundle_checks import with_attacked_drift, with_robust_accuracy
from abnn_serve.evaluation.corruptions.measure import measure_corruptions
from abnn_serve.evaluation.foreign.open import open_foreign
from abnn_serve.evaluation.outcomes import Progress, Trial
from abnn_serve.evaluation.plots import draw_corruptions
from abnn_serve.evaluation.report import draw_report, fill_card, measure
from abnn_serve.evaluation.reports.source import write_flags
from abnn_serve.evaluation.subject import open_foreign_subject, open_subject, output_folder
from abnn_serve.evaluation.suites import choose_trials
from abnn_serve.files import atomic_write
from abnn_serve.lab.data.load import agree, load_data
from abnn_serve.lab.device import pick_device
from abnn_serve.runtime.settings import Device

_QUICK_IMAGES = 200


def evaluate(
    path: str | Path,
    data: str,
    *,
    run: str | Path | None = None,
    twin: str | Path | None = None,
    probe: str | Path | None = None,
    attacks: Sequence[str] = (),
    threats: Sequence[ThreatModel] = (),
    images: int = 1000,
    curve_images: int = 200,
    eps: float = 8 / 255,
    seed: int = 0,
    quick: bool = False,
    autoattack: bool = False,
    corruptions: bool = False,
    labels: str | Path | None = None,
    preprocess: str | None = None,
    output: str | None = None,
    size: tuple[int, int] | None = None,
    gradients: str | Path | None = None,
    out: str | Path | None = None,
    device: str = "auto",
    on_start: Callable[[Sequence[Trial]], None] = lambda _: None,
    on_progress: Callable[[Progress], None] = lambda _: None,
    on_corruption: Callable[[str, int], None] = lambda *_: None,
) -> RobustnessCard:
    """Attack a classifier under every available threat model, and write its robustness card.

    The folder `out` gets card.json, samples.png and, with curves, curves.png. A bundle's own card is replaced too,
    which changes the bundle's identity. If the evaluation is killed, call it again: it resumes from the batches kept in
    `out`.

        card = evaluate("runs/mine", "data/test.parquet", quick=True)
        print(card.worst["whitebox"])  # 31.00% of 200 (95%: 25.0% to 37.7%)

    Args:
        path: a finished run, a bundle, or an ONNX file.
        data: held-out data in any form that `load_data` reads; for a bundle, the data its card was measured on.
        run: for a bundle, the run it was exported from. Attackers then have gradients; without it, only `blackbox` is
            available.
        twin: the undefended run of the same architecture, for `transfer`.
        probe: the run of a classifier made from the substitute alone, for `substitute-transfer`.
        attacks: names from `suites.ATTACKS`; by default each threat model's usual ones. `none` alone runs no attack,
            and leaves those of a bundle's card.
        threats: names of threat models; by default every available one.
        images: samples to attack, at least 2, evenly spaced.
        curve_images: samples for the curves of accuracy against eps and steps; 0 omits the curves.
        eps: Linf budget, in units of [0, 1] pixels.
        seed: random seed.
        quick: fewer attacks and queries, at most 200 images and no curves.
        autoattack: also run AutoAttack, in the white-box threat model.
        corruptions: also measure accuracy under the fifteen corruptions of Hendrycks & Dietterich (2019).
        labels: for an ONNX file, its class names in a text file, one a line, or in a JSON list; by default those of
            the data.
        preprocess: for an ONNX file with float input, see `foreign.preprocess.read_preprocess`.
        output: for an ONNX file, the name of its output, where it has several.
        size: for an ONNX file, height and width in pixels, where it leaves them open.
        gradients: for an ONNX file, another with the same input that supplies the gradients, such as the fp32 original
            of an int8 file.
        out: folder for the results; by default `evaluation` in the run's folder, or NAME-evaluation in the working
            directory for a bundle without a run.
        device: `auto`, `cpu` or `cuda`, for the attacks and for a bundle's session.
        on_start: called once with the trials, when the data has been read and before the first attack.
        on_progress: called after each batch.
        on_corruption: called after each corruption with its name and its number, from 1.

    Returns:
        the card, as written.

    Raises:
        ConfigError: `data` is the training data, or for a bundle not the card's data; an unknown or unavailable attack
            or threat model; a run, twin or probe that does not fit.
        DataError: `data` cannot be read, or its classes are not the network's.
    """
    if images < 2:
        raise ConfigError(f"images is {images}, expected at least 2")
    if list(attacks) == ["none"] and not corruptions:
        raise ConfigError("nothing to measure: attack 'none' needs --corruptions, or name an attack")
    torch_device = pick_device(device)
    session_device: Device = "cpu" if torch_device == "cpu" else "auto" if device == "auto" else "cuda"
    if Path(path).suffix == ".onnx":
        if run or probe:
            raise ConfigError("--run and --probe are for runs and bundles; for an ONNX file omit them")
        foreign = open_foreign(
            Path(path),
            labels=Path(labels) if labels else None,
            preprocess=preprocess,
            output=output,
            size=size,
            gradients=Path(gradients) if gradients else None,
        )
        needs_gradients = list(attacks) != ["none"] and list(threats) != ["blackbox"]
        opened, dataset = open_foreign_subject(foreign, data, gradients=needs_gradients, twin=twin)
    elif labels or preprocess or output or size or gradients:
        raise ConfigError("--labels, --preprocess, --output, --size and --gradients are for ONNX files; omit them")
    else:
        opened = open_subject(path, run=run, twin=twin, probe=probe, device=session_device)
        dataset = None
    trials = choose_trials(
        opened.subject, eps=eps, seed=seed, attacks=attacks, threats=threats, quick=quick, autoattack=autoattack
    )
    dataset = dataset or agree(opened.labels, load_data(data, opened.input))
    opened.check_data(dataset)
    subset = dataset.spread(min(images, _QUICK_IMAGES) if quick else images)
    on_start(trials)
    folder = Path(out) if out else output_folder(path, run)
    folder.mkdir(parents=True, exist_ok=True)
    report = measure(
        opened.subject,
        subset,
        trials,
        eps=eps,
        curve_images=0 if quick else curve_images,
        device=torch_device,
        store=folder / "batches",
        on_progress=on_progress,
    )
    card = opened.card(dataset)
    if corruptions:
        measured = measure_corruptions(
            opened.subject,
            subset,
            seed=seed,
            device=torch_device,
            store=folder / "batches",
            on_progress=on_corruption,
        )
        card = replace(card, corruptions=measured)
        draw_corruptions(measured, folder / "corruptions.png")
    card = fill_card(card, report, dataset)
    card = replace(card, limits=(*opened.limits, *card.limits))
    if opened.bundle:
        if trials:
            card = replace(
                card,
                variants=with_robust_accuracy(opened.bundle, report.evaluation),
                drift=with_attacked_drift(opened.bundle, report.evaluation),
            )
        with_card(opened.bundle, card)
    with atomic_write(folder / "card.json") as file:
        file.write(pack_json(card))
    if trials:
        write_flags(
            folder,
            subset.digest,
            {"clean": report.evaluation.clean}
            | {str(threat): flags for threat, flags in report.evaluation.worst_flags.items()},
        )
    draw_report(opened.subject, report, folder)
    return card
