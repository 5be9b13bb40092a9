"""A card as JUnit XML, which CI systems show as tests: one for each required figure and each sanity check."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Sequence

from abnn_serve.evaluation.reports.source import CardSource
from abnn_serve.evaluation.reports.words import figures, percent


def to_junit(source: CardSource, minimums: Sequence[tuple[str, float]] = ()) -> str:
    """JUnit XML of a card.

    Args:
        source: the card.
        minimums: figures by name (`clean`, a threat model or `corruptions`) that must reach a share; without any,
            the figures are tests that pass.
    """
    card = source.card
    shares = {name: accuracy.value for name, accuracy in figures(card).items()}
    if card.corruptions:
        shares["corruptions"] = card.corruptions.mean
    required = dict(minimums)
    cases = []
    for name, share in shares.items():
        minimum = required.get(name)
        problem = (
            f"accuracy is {percent(share)}, expected at least {percent(minimum)}" if minimum and share < minimum else ""
        )
        cases.append((f"accuracy: {name} {percent(share)}", problem))
    cases += [(f"accuracy: {name}", "not measured") for name in required if name not in shares]
    cases += [(f"sanity: {check.name}", "" if check.passed else check.detail or "failed") for check in card.sanity]
    failures = sum(bool(problem) for _, problem in cases)
    suite = ET.Element("testsuite", name=f"robustness of {source.name}", tests=str(len(cases)), failures=str(failures))
    for name, problem in cases:
        case = ET.SubElement(suite, "testcase", classname=f"abnn.{source.name}", name=name)
        if problem:
            ET.SubElement(case, "failure", message=problem)
    ET.indent(suite)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ET.tostring(suite, encoding="unicode") + "\n"
