"""Attack a run or a bundle under every available threat model, and write its robustness card."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from abnn_serve.card import RobustnessCard, ThreatModel
from abnn_serve.errors import ConfigError
from abnn_serve.evaluation.arguments import can_autoattack, check_arguments
from abnn_serve.evaluation.corruptions.measure import measure_corruptions
from abnn_serve.evaluation.endpoints.options import EndpointOptions
from abnn_serve.evaluation.estimate import measure_seconds
from abnn_serve.evaluation.opening import OnnxOptions, open_any, output_folder
from abnn_serve.evaluation.outcomes import Progress, Trial
from abnn_serve.evaluation.plots import draw_corruptions
from abnn_serve.evaluation.report import draw_report, fill_card, measure
from abnn_serve.evaluation.results import write_results
from abnn_serve.evaluation.suites import choose_trials
from abnn_serve.evaluation.workers import share_work
from abnn_serve.hardware import usable_cores
from abnn_serve.lab.device import pick_device

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
    queries: int | None = None,
    quick: bool = False,
    full: bool = False,
    autoattack: bool = False,
    corruptions: bool = False,
    labels: str | Path | None = None,
    preprocess: str | None = None,
    output: str | None = None,
    size: tuple[int, int] | None = None,
    gradients: str | Path | None = None,
    endpoint: EndpointOptions | None = None,
    out: str | Path | None = None,
    device: str = "auto",
    eot: int = 1,
    straight_through: bool = False,
    jobs: int | None = None,
    on_start: Callable[[Sequence[Trial]], None] = lambda _: None,
    on_estimate: Callable[[float, int | None], None] = lambda *_: None,
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
        path: a finished run, a bundle, an ONNX file, an endpoint's address such as http://host/v2/models/NAME, or
            `module:function`, which takes uint8 (n, H, W, 3) and returns scores (n, classes) or labels (n,).
        data: held-out data in any form that `load_data` reads; for a bundle, the data its card was measured on.
        run: for a bundle without weights, the run it was exported from: without either only `blackbox` is available.
        twin: the undefended run, or bundle, of the same architecture, for `transfer`.
        probe: the run, or bundle, of a classifier made from the substitute alone, for `substitute-transfer`.
        attacks: names from `suites.ATTACKS`; by default each threat model's usual ones. `none` alone runs no attack,
            and leaves those of a bundle's card.
        threats: names of threat models; by default every available one.
        images: samples to attack, at least 2, evenly spaced.
        curve_images: samples for the curves of accuracy against eps and steps; 0 omits the curves.
        eps: Linf budget, in units of [0, 1] pixels.
        seed: random seed.
        queries: for each sample, of Square and RayS; by default 1,000, or 100 if `quick`.
        quick: fewer attacks and queries, at most 200 images and no curves.
        full: also AutoAttack, if it is installed and the subject has gradients and no answer rule; one process for each
            core, unless `jobs` is given; and an estimate of the time before the first attack.
        autoattack: also run AutoAttack, in the white-box threat model.
        corruptions: also measure accuracy under the fifteen corruptions of Hendrycks & Dietterich (2019).
        labels: for an ONNX file or an endpoint, its class names in a text file, one a line, or in a JSON list; by
            default those of the data.
        preprocess: for an ONNX file with float input, see `foreign.preprocess.read_preprocess`.
        output: for an ONNX file, the name of its output, where it has several.
        size: for an ONNX file or an endpoint, height and width in pixels, where it leaves them open.
        gradients: for an ONNX file, another with the same input that supplies the gradients, such as the fp32 original
            of an int8 file.
        endpoint: how an endpoint or a callable is asked.
        out: folder for the results; by default `evaluation` in the run's folder, or NAME-evaluation in the working
            directory for a bundle without a run.
        device: `auto`, `cpu` or `cuda`, for the attacks and for a bundle's session.
        eot: draws of a random model over which attacks take the mean (expectation over transformation); for an endpoint
            answers to each image.
        straight_through: attack rounding and signs in a run's network as if their gradient were that of the identity
            (BPDA); always done for ONNX files.
        jobs: processes that share the work, each with one thread; the results are the same for any number. Call it
            under `if __name__ == "__main__":` then. By default this process does everything, with all its threads.
        on_start: called once with the trials, when the data has been read and before the first attack.
        on_estimate: called once before the first attack with the seconds that the attacks will take, if `full`; for an
            endpoint with the seconds and queries that the evaluation takes, at most.
        on_progress: called after each batch.
        on_corruption: called after each corruption with its name and the number of finished corruptions.

    Returns:
        the card, as written.

    Raises:
        ConfigError: `data` is the training data, or for a bundle not the card's data; an unknown or unavailable attack
            or threat model; a run, twin or probe that does not fit.
        DataError: `data` cannot be read, or its classes are not the network's.
    """
    check_arguments(attacks, images=images, quick=quick, full=full, corruptions=corruptions, jobs=jobs)
    if full and jobs is None:
        jobs = usable_cores()
    torch_device = pick_device(device)
    folder = Path(out) if out else output_folder(path, run)
    opened, dataset = open_any(
        path,
        data,
        run=run,
        twin=twin,
        probe=probe,
        onnx=OnnxOptions(labels=labels, preprocess=preprocess, output=output, size=size, gradients=gradients),
        endpoint=endpoint,
        eot=eot,
        straight_through=straight_through,
        folder=folder,
        attacked=list(attacks) != ["none"],
        needs_gradients=list(attacks) != ["none"] and list(threats) != ["blackbox"],
        device="cpu" if torch_device == "cpu" else "auto" if device == "auto" else "cuda",
    )
    with opened.closing():
        if opened.endpoint and jobs:
            raise ConfigError("--jobs and --full share out computation, and an endpoint computes elsewhere; omit them")
        trials = choose_trials(
            opened.subject,
            eps=eps,
            seed=seed,
            attacks=attacks,
            threats=threats,
            quick=quick,
            queries=queries,
            autoattack=autoattack or (full and not attacks and can_autoattack(opened.subject, threats)),
        )
        opened.check_data(dataset)
        subset = dataset.spread(min(images, _QUICK_IMAGES) if quick else images)
        on_start(trials)
        folder.mkdir(parents=True, exist_ok=True)
        card = opened.card(dataset)
        with share_work(opened.subject, opened.reopen, jobs) as workers:
            if opened.endpoint:
                needed = opened.endpoint.check_budget(len(subset), trials, corruptions=corruptions)
                on_estimate(needed * opened.endpoint.seconds, needed)
            elif full and trials:
                on_estimate(measure_seconds(opened.subject, subset, trials, device=torch_device, jobs=jobs or 1), None)
            report = measure(
                opened.subject,
                subset,
                trials,
                eps=eps,
                curve_images=0 if quick else curve_images,
                device=torch_device,
                store=folder / "batches",
                workers=workers,
                on_progress=on_progress,
            )
            if corruptions:
                measured = measure_corruptions(
                    opened.subject,
                    subset,
                    seed=seed,
                    device=torch_device,
                    store=folder / "batches",
                    workers=workers,
                    on_progress=on_corruption,
                )
                card = replace(card, corruptions=measured)
                draw_corruptions(measured, folder / "corruptions.png")
            draw_report(opened.subject, report, folder)
            if opened.endpoint:
                report = replace(report, sanity=(*report.sanity, opened.endpoint.check_unchanged()))
                card = replace(card, endpoint=opened.endpoint.row())
        card = fill_card(card, report, dataset)
        card = replace(card, limits=(*opened.limits, *card.limits))
        return write_results(card, opened, report, folder)
