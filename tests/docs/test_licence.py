"""The licence and the citation agree with the package."""

from __future__ import annotations

import hashlib
import tomllib

import yaml

from abnn_serve.version import __version__
from tests.docs.pages import ROOT, read_page

# the text that the Apache Software Foundation publishes
APACHE_2_0 = "cfc7749b96f63bd31c3c42b5c471bf756814053e847c10f3eb003417bc523d30"


def test_the_licence_is_the_unchanged_apache_2_0():
    project = tomllib.loads(read_page("pyproject.toml"))["project"]
    assert project["license"] == "Apache-2.0"
    assert project["license-files"] == ["LICENSE"]
    assert hashlib.sha256((ROOT / "LICENSE").read_bytes()).hexdigest() == APACHE_2_0


def test_the_citation_names_this_version_and_both_papers():
    citation = yaml.safe_load(read_page("CITATION.cff"))
    assert citation["version"] == __version__
    assert citation["license"] == "Apache-2.0"
    assert [(paper["title"], paper["year"]) for paper in citation["references"]] == [
        ("Adaptive Batch Normalization Networks for Adversarial Robustness", 2024),
        ("On Fragile Features and Batch Normalization in Adversarial Training", 2022),
    ]
    assert all(paper["url"].startswith("https://arxiv.org/abs/") for paper in citation["references"])
