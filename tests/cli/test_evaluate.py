from __future__ import annotations

import json
import shutil
from dataclasses import replace

import pytest

from abnn_serve import evaluate
from abnn_serve.bundle.store import load_bundle
from abnn_serve.card import RobustnessCard, SanityCheck
from abnn_serve.cli import evaluate as evaluate_command
from abnn_serve.cli.card_tables import print_card
from abnn_serve.codec import from_json
from abnn_serve.errors import ConfigError
from abnn_serve.evaluation import suites
from tests.cli.test_cli import _abnn, _fails


def test_a_run_gets_the_card_of_the_public_function_and_a_table(abnn_run, standard_run, shapes, tmp_path):
    options = ("--data", shapes["val"], "--twin", standard_run.path, "--quick", "-n", 16, "--out", tmp_path / "results")
    done = _abnn("evaluate", abnn_run.path, *options, "--attack", "pgd", "--require", "clean>=0.01")
    assert done.returncode == 0, done.stderr
    assert "whitebox" in done.stdout
    assert "whitebox: PGD-20  accuracy " in done.stderr
    assert " sanity checks passed\n" in done.stdout
    value = json.loads((tmp_path / "results" / "card.json").read_text())
    card = from_json(RobustnessCard, value, "card", ConfigError)
    assert [row.threat_model for row in card.attacks] == ["whitebox", "graybox", "transfer"]
    assert all(row.accuracy.n == 16 for row in card.attacks)
    assert card.sanity
    assert (tmp_path / "results" / "command.txt").read_text().startswith("abnn evaluate ")
    assert (tmp_path / "results" / "samples.png").read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "results" / "card.json").stat().st_size < 100_000
    from_python = evaluate(
        abnn_run.path,
        shapes["val"],
        twin=standard_run.path,
        attacks=["pgd"],
        images=16,
        quick=True,
        out=tmp_path / "results",
        device="cpu",
    )
    assert from_python == card  # with the same seconds, as both read the same finished batches
    again = _abnn("evaluate", abnn_run.path, *options, "--attack", "pgd", "--require", "whitebox>=0.99")
    assert again.returncode == 1
    assert again.stderr.splitlines()[-1].startswith("abnn: whitebox accuracy is ")


def test_a_bundle_gets_the_card_inside_and_another_identity(bundle, shapes, tmp_path):
    copy = tmp_path / "shapes"
    shutil.copytree(bundle.path, copy)
    done = _abnn(
        "evaluate",
        copy,
        "--data",
        shapes["val"],
        "--quick",
        "-n",
        8,
        "--out",
        tmp_path / "results",
    )
    assert done.returncode == 0, done.stderr
    after = load_bundle(copy)
    assert after.digest != bundle.digest
    assert {row.threat_model for row in after.card.attacks} == {"whitebox", "graybox", "blackbox", "artifact"}
    assert after.card.clean == bundle.card.clean
    assert after.card.model_sha256 == bundle.card.model_sha256
    assert not any("not been evaluated" in limit for limit in after.card.limits)
    printed = _abnn("show", copy)
    assert "worst case without patches" in printed.stdout


def test_a_card_is_only_filled_on_its_own_held_out_data(older_bundle, abnn_run, shapes):
    _fails(
        _abnn("evaluate", older_bundle.path, "--data", shapes["train"]),
        r"the card of .* was measured on val.parquet, and .* is other data",
    )
    _fails(
        _abnn("evaluate", abnn_run.path, "--data", shapes["train"]),
        "is the network's training data; give held-out data",
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--require", "whitebox>30"), r"--require is 'whitebox>30', expected THREAT>=SHARE"),
        (("--require", "whitebox>=0.3.0"), r"--require is 'whitebox>=0.3.0', expected THREAT>=SHARE"),
        (
            ("--require", "whitebx>=0.3"),
            r"--require names 'whitebx', which this evaluation does not measure; expected one of clean, graybox",
        ),
        (
            ("--attack", "roa", "--require", "whitebox>=0.3"),
            r"--require names 'whitebox', which this evaluation does not measure",
        ),
        (("--eps", "8/0"), "--eps is '8/0', expected a number or a fraction"),
        (("--attack", "cw"), "no attack named 'cw'"),
        (("--threat", "transfer"), r"'transfer' .* is unavailable: give the undefended twin with --twin RUN"),
        (("--run", "x"), "--run is for a bundle"),
    ],
)
def test_what_cannot_be_evaluated_is_one_line(options, message, abnn_run, shapes):
    _fails(_abnn("evaluate", abnn_run.path, "--data", shapes["val"], "-n", 8, *options), message)


def test_corruptions_are_printed_and_can_be_required(bundle, shapes, tmp_path):
    copy = tmp_path / "shapes"
    shutil.copytree(bundle.path, copy)
    options = ("--data", shapes["val"], "-n", 8, "--attack", "none", "--corruptions", "--out", tmp_path / "out")
    done = _abnn("evaluate", copy, *options, "--require", "corruptions>=1")
    _fails(done, "corruptions accuracy is .* at least 1.0")
    assert "CIFAR-10-C's corruptions: mean " in done.stdout
    assert "JPEG compression" in done.stdout
    assert "corruptions" in _abnn("show", copy).stdout


def test_failed_sanity_checks_are_printed_with_their_figures(bundle, capsys):
    checks = (
        SanityCheck.of("queries alone do not beat gradients", passed=False, detail="Square leaves 20.0% accuracy"),
        SanityCheck.of("gradients do not vanish", passed=True, detail=""),
    )
    print_card(replace(bundle.card, sanity=checks))
    printed = capsys.readouterr().out
    assert "FAILED: queries alone do not beat gradients (Square leaves 20.0% accuracy)" in printed
    assert "1 of 2 sanity checks passed" in printed


def test_the_help_lists_every_attack():
    assert evaluate_command.ATTACKS.split(", ") == list(suites.ATTACKS)
