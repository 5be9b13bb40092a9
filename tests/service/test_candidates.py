"""Versions, shadow and canary: their settings, and a server that has all three."""

from __future__ import annotations

import time

import numpy as np
import pytest

from abnn_serve.bundle.store import load_bundle
from abnn_serve.errors import ConfigError
from abnn_serve.runtime.predictor import Predictor
from abnn_serve.runtime.settings import Settings
from abnn_serve.service.candidates import Candidate, read_canary, read_shadow
from abnn_serve.service.catalog import Catalog
from abnn_serve.service.metrics import Metrics
from abnn_serve.service.settings import ServiceSettings
from abnn_serve.service.traffic import compare_canaries, compare_shadows, read_samples
from tests.drawing import draw_shape, png
from tests.service.conftest import write_version
from tests.service.server import wait_until

RNG = np.random.default_rng(11)
PICTURES = [png(draw_shape(i % 3, RNG)) for i in range(12)]


def test_a_shadow_and_a_canary_are_named_in_one_variable_each():
    assert read_shadow("m:models/new") == Candidate(role="shadow", name="m", source="models/new")
    canary = read_canary("m:bento:new:latest:0.05")
    assert (canary.source, canary.share) == ("bento:new:latest", 0.05)
    assert read_canary(canary.text("/x")) == Candidate(role="canary", name="m", source="/x", share=0.05)


@pytest.mark.parametrize("text", ["m", "m:", ":d:0.5", "m:d", "m:d:", "m:d:1.5", "m:d:-1", "m:d:nan", "m::0.5"])
def test_a_canary_of_another_form_is_refused(text):
    with pytest.raises(ConfigError, match="expected NAME:BUNDLE:SHARE"):
        read_canary(text)


@pytest.mark.parametrize("text", ["m", "m:", ":d"])
def test_a_shadow_of_another_form_is_refused(text):
    with pytest.raises(ConfigError, match="expected NAME:BUNDLE"):
        read_shadow(text)


def test_a_canary_answers_its_share_of_the_callers_and_always_the_same_ones():
    canary = Candidate(role="canary", name="m", source="d", share=0.05)
    callers = [f"caller {i}" for i in range(20_000)]
    taken = [canary.takes(caller) for caller in callers]
    assert 0.044 < np.mean(taken) < 0.056
    assert taken == [canary.takes(caller) for caller in callers]
    wider = Candidate(role="canary", name="m", source="e", share=0.10)
    assert all(wider.takes(caller) for caller, was in zip(callers, taken, strict=True) if was)
    assert not any(Candidate(role="canary", name="m", source="d", share=0).takes(c) for c in callers[:100])
    assert all(Candidate(role="canary", name="m", source="d", share=1).takes(c) for c in callers[:100])


@pytest.mark.parametrize("role", ["shadow", "canary"])
def test_a_candidate_for_another_input_or_no_model_is_refused(bundle, video_bundle, role):
    settings = Settings(bundle=bundle.path, threads=1, device="cpu")
    for name, source, problem in (
        ("shapes", video_bundle.path, "whose input or labels are not those of shapes"),
        ("nix", bundle.path, "unknown model 'nix', expected one of shapes"),
    ):
        candidate = Candidate(role=role, name=name, source=str(source))
        with pytest.raises(ConfigError, match=problem):
            Catalog(settings, ServiceSettings(**{role: candidate}), Metrics(workers=1))


def test_two_bundles_of_one_name_and_version_are_refused_also_on_reload(bundle, tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    for path, version in ((one, "1"), (two, "2")):
        write_version(load_bundle(bundle.path), path, version)
    metrics = Metrics(workers=1)
    catalog = Catalog(Settings(bundle=tmp_path, threads=1, device="cpu"), ServiceSettings(), metrics)
    assert catalog.versions("other") == ["1", "2"]
    write_version(load_bundle(bundle.path), two, "1")
    catalog.refresh()
    assert catalog.versions("other") == ["1", "2"]
    assert metrics._registry.get_sample_value("abnn_reloads_total", {"model": "other", "outcome": "failed"}) == 1
    with pytest.raises(ConfigError, match="second bundle named 'other' of version '1'"):
        Catalog(Settings(bundle=tmp_path, threads=1, device="cpu"), ServiceSettings(), metrics)


def _ask(operated, **options):
    return operated.post("/classify", files={"image": PICTURES[0]}, **options)


def test_two_versions_are_served_at_once(operated):
    for version in ("1", "2"):
        assert _ask(operated, params={"version": version}).json()["model"]["version"] == version
        assert operated.get(f"/model?version={version}").json()["version"] == version
        assert operated.get(f"/v2/models/shapes/versions/{version}").json()["versions"] == ["1", "2"]
        pixels = {"name": "image", "datatype": "UINT8", "shape": [1, 32, 32, 3], "data": [9] * 3072}
        answer = operated.post(f"/v2/models/shapes/versions/{version}/infer", json={"inputs": [pixels]}).json()
        assert (answer["model_name"], answer["model_version"]) == ("shapes", version)
    refused = _ask(operated, params={"version": "9"})
    assert refused.status_code == 404
    assert refused.json()["error"]["message"] == "shapes has no version '9', expected '1' or '2'"
    assert refused.json()["error"]["field"] == "version"
    assert [row["model"]["version"] for row in operated.get("/models").json()["models"]] == ["1", "2"]
    assert list(operated.get("/openapi.json").json()["paths"]).count("/v2/models/shapes/infer") == 1


def test_a_canary_answers_some_callers_under_its_own_name_and_is_counted(operated):
    canary = Candidate(role="canary", name="shapes", source="", share=0.5)
    before = _canary_responses(operated)
    for i in range(20):
        caller = f"caller-{i}"
        answer = _ask(operated, headers={"x-request-id": caller}).json()
        assert answer["model"]["name"] == ("new" if canary.takes(caller) else "shapes")
    assert (
        _ask(operated, params={"version": "1"}, headers={"x-request-id": "caller-1"}).json()["model"]["name"]
        == "shapes"
    )
    bad = [operated.post("/classify", files={"image": b"x"}, headers={"x-request-id": f"c{i}"}) for i in range(4)]
    assert {answer.status_code for answer in bad} == {415}
    taken = sum(canary.takes(f"caller-{i}") for i in range(20)) + sum(canary.takes(f"c{i}") for i in range(4))
    assert _canary_responses(operated) - before == taken
    (comparison,) = compare_canaries(read_samples(operated.get("/metrics").text, "metrics"))
    (failures,) = [figure for figure in comparison.figures if "5xx" in figure.name]
    assert (failures.stable, failures.canary, failures.p_value) == (0, 0, 1)


def _canary_responses(operated):
    samples = read_samples(operated.get("/metrics").text, "metrics")["abnn_canary_requests_total"]
    return sum(value for labels, value in samples if labels["arm"] == "canary")


def test_a_shadow_answers_again_by_its_rule_while_the_server_is_idle(operated, masks_bundle, bundle):
    def compared():
        text = operated.get("/metrics").text
        return {row.label: row for shadow in compare_shadows(read_samples(text, "")) for row in shadow.classes}

    before = compared()
    while (rows := _settled(compared)) != before:  # samples of other tests may wait
        before = rows
    for count, picture in enumerate(PICTURES, 1):
        operated.post("/classify?version=1", files={"image": picture})
        wait_until(lambda count=count: _total(compared()) >= count + _total(before))
    after = compared()
    served, shadow = (
        [p.predict(p.decode(picture)[None])[0].top[0].label for picture in PICTURES]
        for p in (Predictor.open(b.path, device="cpu", threads=1) for b in (bundle, masks_bundle))
    )
    same = sum(a == b for a, b in zip(served, shadow, strict=True))
    assert sum(row.both for row in after.values()) - sum(row.both for row in before.values()) == same
    assert all(row.seconds[1] > 0 for row in after.values() if row.both)


def _settled(compared):
    time.sleep(0.5)
    return compared()


def _total(rows):
    return sum(row.both + row.served for row in rows.values())


def test_candidates_are_named_in_the_metrics(operated, masks_bundle):
    rows = read_samples(operated.get("/metrics").text, "")["abnn_candidate_info"]
    assert {(row["role"], row["name"], row["version"]) for row, value in rows if value} == {
        ("shadow", masks_bundle.manifest.name, "1"),
        ("canary", "new", "3"),
    }
