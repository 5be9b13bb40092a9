from __future__ import annotations

import json
import re
import subprocess
import sys
import xml.etree.ElementTree as ET
from dataclasses import replace
from html import unescape
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from abnn_serve.bundle.store import pack_json
from abnn_serve.card import (
    Accuracy,
    CalibrationResult,
    CorruptionResult,
    Corruptions,
    EndpointUse,
    RobustnessCard,
    SanityCheck,
)
from abnn_serve.errors import ConfigError
from abnn_serve.evaluation.corruptions.constants import CORRUPTIONS, SEVERITIES
from abnn_serve.evaluation.reports.compare import compare
from abnn_serve.evaluation.reports.html import to_html
from abnn_serve.evaluation.reports.junit import to_junit
from abnn_serve.evaluation.reports.markdown import to_markdown
from abnn_serve.evaluation.reports.mlbom import to_mlbom
from abnn_serve.evaluation.reports.source import CardSource, read_card, write_flags
from abnn_serve.evaluation.reports.words import budget, verdict
from tests.cli.test_cli import _abnn, _fails

BUNDLE = Path(__file__).parents[3] / "models" / "cifar10-abnn-robust"
PNG = b"\x89PNG\r\n\x1a\n-not-a-picture"


@pytest.fixture
def source(tmp_path) -> CardSource:
    """A card with corruptions, a failed check and a name that must be escaped, in a folder with a picture."""
    results = tuple(
        CorruptionResult(corruption=name, severity=severity, accuracy=Accuracy(correct=7, n=10))
        for name in CORRUPTIONS
        for severity in SEVERITIES
    )
    card = replace(
        read_card(BUNDLE).card,
        corruptions=Corruptions(
            constants="CIFAR-10-C", seed=0, results=results, mean=0.7, interval=(0.6, 0.8), mce=0.9
        ),
        sanity=(
            SanityCheck.of("gradients do not vanish", passed=True, detail="0.0%"),
            SanityCheck.of("queries alone do not beat gradients", passed=False, detail="Square <wins> & more"),
        ),
        limits=("A <limit> & another.",),
    )
    folder = tmp_path / "my <model>"
    folder.mkdir()
    (folder / "card.json").write_bytes(pack_json(card))
    (folder / "samples.png").write_bytes(PNG)
    return read_card(folder)


def test_the_calibration_error_is_in_the_reports_of_a_card_that_has_it(source):
    result = CalibrationResult(
        data="test.parquet",
        fitted=2000,
        measured=1000,
        bins=15,
        ece_before=0.2051,
        ece_after=0.0419,
        nll_before=1.1,
        nll_after=0.8,
        abstained=250,
        answered=Accuracy(correct=600, n=750),
    )
    sentence = (
        "The expected calibration error of the probabilities is 4.2% with the bundle's temperature and 20.5% without, "
        "in 15 bins on 1,000 samples of test.parquet. The bundle abstains from 250 of them. 80.0% of the others are "
        "classified correctly."
    )
    for calibration in (result, None):
        reported = replace(source, card=replace(source.card, calibration=calibration))
        texts = to_markdown(reported), unescape(to_html(reported))
        assert [sentence in text for text in texts] == [calibration is not None] * 2


class _Elements(HTMLParser):
    """Checks that elements are closed in order, and collects their attributes."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.attributes += [(name, value or "") for name, value in attrs]
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_the_html_is_one_well_formed_file_without_outside_requests_or_scripts(source):
    text = to_html(source)
    page = _Elements(text)
    assert page.open == []
    loads = [value for name, value in page.attributes if name in ("src", "href", "srcset", "action")]
    assert loads
    assert all(value.startswith("data:image/png;base64,") for value in loads)
    assert not re.search(r"<script|url\(|@import|https?://", text)
    assert "prefers-color-scheme: dark" in text
    assert "@media print" in text


def test_the_html_escapes_text_and_shows_every_part(source):
    text = to_html(source)
    assert "Robustness of my &lt;model&gt;" in text
    assert "Square &lt;wins&gt; &amp; more" in text
    assert "A &lt;limit&gt; &amp; another." in text
    for part in ("JPEG compression", "Sanity checks", "Failed:", "95% interval", source.card.model_sha256):
        assert part in text
    assert "Linf 8/255: the attack may change" in text
    assert "PGD-N: N steps" in text
    assert "Curves" not in to_html(replace(source, card=replace(source.card, curves=())))


@pytest.mark.parametrize(("folder", "name"), [("mine/evaluation", "mine"), ("net-evaluation", "net"), ("out", "out")])
def test_a_report_is_named_after_what_was_evaluated(source, tmp_path, folder, name):
    (tmp_path / folder).mkdir(parents=True)
    (tmp_path / folder / "card.json").write_bytes(pack_json(source.card))
    assert read_card(tmp_path / folder).name == name


def test_the_verdict_names_clean_accuracy_attack_budget_and_doubt(source):
    words = verdict(source.card)
    share = source.card.worst["whitebox"].value
    assert f"{100 * share:.1f}% under white-box attack (Linf 8/255" in words
    assert words.endswith("The figures may mislead: 1 of 2 sanity checks failed.")
    bare = replace(source.card, worst={}, attacks=(), sanity=())
    assert verdict(bare).endswith("robustness against attacks has not been measured.")


def test_budgets_are_in_levels_where_they_are_whole():
    assert [budget("Linf", 8 / 255), budget("Linf", 0.03), budget("L2", 0.5), budget("patch", 0.1)] == [
        "Linf 8/255", "Linf 0.03", "L2 0.5", "10% of the area",
    ]  # fmt: skip


def test_markdown_has_a_table_and_the_failed_check(source):
    text = to_markdown(source)
    assert "| Corruptions: mean of fifteen at five severities | 70.0% | 60.0% to 80.0% | 10 |" in text
    assert "- **Failed sanity check:** queries alone do not beat gradients" in text
    assert "- 10% of the area: the attack may replace all pixels inside one rectangle" in text
    assert "\n\n\n" not in text


def test_junit_fails_what_is_below_its_minimum_unmeasured_or_suspect(source):
    suite = ET.fromstring(to_junit(source, [("whitebox", 0.99), ("corruptions", 0.5), ("transfer-2", 0.1)]))
    failed = {case.get("name"): case[0].get("message") for case in suite if len(case)}
    assert suite.get("failures") == str(len(failed)) == "3"
    assert suite.get("tests") == str(len(suite))
    assert failed["accuracy: transfer-2"] == "not measured"
    assert failed["sanity: queries alone do not beat gradients"] == "Square <wins> & more"
    assert any("expected at least 99.0%" in message for message in failed.values())
    assert ET.fromstring(to_junit(replace(source, card=replace(source.card, sanity=())))).get("failures") == "0"


def test_reports_say_what_an_endpoint_was_asked(source):
    use = EndpointUse(
        address="http://host/v2/models/x", protocol="v2", scores="labels", repeats=3, queries=12345, requests=1600,
        answers={"200": 1598, "429": 2}, waited=4.2,
    )  # fmt: skip
    asked = replace(source, card=replace(source.card, endpoint=use))
    (source.folder / "card.json").write_bytes(pack_json(asked.card))
    assert read_card(source.folder).name == use.address
    for text in (to_html(asked), to_markdown(asked)):
        assert "http://host/v2/models/x" in text
        assert "v2, answers labels, each the mean of 3" in text
        assert "12,345 images in 1,600 requests (1,598 x 200, 2 x 429)" in text


@pytest.mark.slow
def test_the_bill_of_materials_follows_cyclonedx_s_schema(source, tmp_path):
    """Downloads the schema, in CycloneDX's own library."""
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--target", tmp_path / "packages"]
    done = subprocess.run(
        [*install, "cyclonedx-python-lib[json-validation]"], capture_output=True, text=True, check=False
    )
    if done.returncode:
        pytest.skip(f"cannot install cyclonedx-python-lib: {done.stderr.splitlines()[-1:]}")
    program = (
        "import sys; from cyclonedx.schema import SchemaVersion; "
        "from cyclonedx.validation.json import JsonStrictValidator; "
        "print(JsonStrictValidator(SchemaVersion.V1_6).validate_str(sys.stdin.read()))"
    )
    broken = to_mlbom(source).replace("machine-learning-model", "machine-learning-muddle")
    for text, printed in ((to_mlbom(source), "None"), (broken, "machine-learning-muddle")):
        done = subprocess.run(
            [sys.executable, "-c", program], input=text, env={"PYTHONPATH": str(tmp_path / "packages")},
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        assert printed in done.stdout


def test_the_bill_of_materials_has_the_metrics_of_cyclonedx(source):
    value = json.loads(to_mlbom(source))
    assert (value["bomFormat"], value["specVersion"]) == ("CycloneDX", "1.6")
    (component,) = value["components"]
    assert component["type"] == "machine-learning-model"
    metrics = component["modelCard"]["quantitativeAnalysis"]["performanceMetrics"]
    assert {"type": "accuracy", "slice": "mean over corruptions", "value": "0.7000",
            "confidenceInterval": {"lowerBound": "0.6000", "upperBound": "0.8000"}} in metrics  # fmt: skip
    assert all(set(metric) == {"type", "slice", "value", "confidenceInterval"} for metric in metrics)


def _card(folder: Path, name: str, flags: np.ndarray, digest: str) -> CardSource:
    card = RobustnessCard(model_sha256="0", data="d", data_digest="1", clean=Accuracy.of(flags), training=None)
    (folder / name).mkdir()
    (folder / name / "card.json").write_bytes(pack_json(card))
    write_flags(folder / name, digest, {"clean": flags})
    return read_card(folder / name)


def test_cards_of_the_same_images_are_paired_and_have_a_narrower_interval(tmp_path):
    first = np.arange(200) < 120
    second = np.arange(200) < 132
    own = _card(tmp_path, "a", first, "same")
    (paired,) = compare(own, _card(tmp_path, "b", second, "same"))
    (unpaired,) = compare(own, _card(tmp_path, "c", second, "other"))
    assert paired.value == pytest.approx(unpaired.value) == pytest.approx(0.06)
    assert paired.p_value == pytest.approx(2 / 2**12)
    assert unpaired.p_value is None
    assert paired.is_clear
    assert not unpaired.is_clear
    (none,) = compare(own, _card(tmp_path, "d", first, "same"))
    assert (none.value, none.p_value, none.is_clear) == (0, 1, False)


def test_the_unpaired_interval_is_newcombe_s(tmp_path):
    """Newcombe (1998), example (a) with method 10: 56/70 and 48/80."""
    first = _card(tmp_path, "a", np.arange(80) < 48, "x")
    second = _card(tmp_path, "b", np.arange(70) < 56, "y")
    (difference,) = compare(first, second)
    assert difference.interval == pytest.approx((0.0524, 0.3339), abs=1e-4)


def test_the_commands_write_every_form_and_refuse_what_they_cannot_read(source, tmp_path):
    names = {"--html": "r.html", "--markdown": "r.md", "--junit": "r.xml", "--bom": "r.json"}
    options = [part for option, name in names.items() for part in (option, tmp_path / name)]
    done = _abnn("report", source.folder, *options, "--require", "clean>=0.99")
    assert done.returncode == 0, done.stderr
    assert all((tmp_path / name).stat().st_size > 500 for name in names.values())
    _fails(_abnn("report", BUNDLE), "nothing to write: give --html, --markdown, --junit or --bom")


def test_a_folder_without_a_card_is_one_line(tmp_path):
    with pytest.raises(ConfigError, match=r"holds no readable card .*give a bundle, an evaluation's folder or a card"):
        read_card(tmp_path)
