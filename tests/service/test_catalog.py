from __future__ import annotations

import shutil
import threading
from pathlib import Path

import numpy as np
import pytest

from abnn_serve.bundle.store import load_bundle
from abnn_serve.errors import ConfigError
from abnn_serve.runtime.settings import DEFAULT_BUNDLE, Settings
from abnn_serve.service.served_model import best_batch_size
from abnn_serve.service.sources import find_bundles, required_digests
from tests.drawing import draw_shape, png
from tests.service.conftest import write_version
from tests.service.server import wait_until

PICTURE = png(draw_shape(2, np.random.default_rng(4)))


def test_a_bundle_a_folder_and_a_list_are_told_apart(bundle, tmp_path):
    for name in ("b", "a"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "bundle.json").write_text("{}")
    assert find_bundles(bundle.path) == [str(bundle.path)]
    assert find_bundles(tmp_path) == [str(tmp_path / "a"), str(tmp_path / "b")]
    assert find_bundles(Path(f"{tmp_path / 'b'}, {bundle.path}")) == [str(tmp_path / "b"), str(bundle.path)]
    assert find_bundles(Path("bento:mine:latest")) == ["bento:mine:latest"]
    with pytest.raises(ConfigError, match="names no bundle"):
        find_bundles(Path(","))


def test_in_a_folder_the_default_bundle_comes_first_and_a_list_keeps_its_order(tmp_path):
    for name in ("zoo", "a", DEFAULT_BUNDLE, "cifar10-abnn"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "bundle.json").write_text("{}")
    assert [Path(found).name for found in find_bundles(tmp_path)] == [DEFAULT_BUNDLE, "a", "cifar10-abnn", "zoo"]
    listed = f"{tmp_path / 'a'},{tmp_path / DEFAULT_BUNDLE}"
    assert find_bundles(Path(listed)) == listed.split(",")


def test_there_is_an_identity_for_each_bundle_or_none():
    settings = Settings(bundle=Path("x"), digest="a,b")
    assert required_digests(settings, 2) == ["a", "b"]
    with pytest.raises(ConfigError, match="2 digests for 3 bundles"):
        required_digests(settings, 3)


def test_every_bundle_answers_under_its_name_and_the_first_without_one(client):
    shown = [client.post("/classify", params=p, files={"image": PICTURE}).json() for p in ({}, {"model": "other"})]
    assert [row["model"]["name"] for row in shown] == ["shapes", "other"]
    assert shown[0]["top"] == shown[1]["top"]
    assert client.get("/model?model=other").json()["name"] == "other"


def test_a_new_version_on_disk_takes_over_without_a_lost_request_and_a_damaged_one_does_not(server, bundle):
    seen, stop = [], threading.Event()

    def ask():
        while not stop.is_set():
            response = server.client.post("/classify?model=other", files={"image": PICTURE})
            seen.append((response.status_code, response.json().get("model", {}).get("version")))

    asking = threading.Thread(target=ask)
    asking.start()
    try:
        write_version(load_bundle(bundle.path), server.bundles / "b-other", "2")
        wait_until(lambda: (200, "2") in seen)
        (server.bundles / "b-other" / "labels.json").write_bytes(b"[]")
        (server.bundles / "b-other" / "bundle.json").write_bytes(b"{}")
        wait_until(lambda: "cannot load the new version of other" in server.log.read_text())
        shutil.rmtree(server.bundles / "b-other")
        write_version(load_bundle(bundle.path), server.bundles / "b-other", "3")
        wait_until(lambda: (200, "3") in seen)
    finally:
        stop.set()
        asking.join()
    assert {status for status, _ in seen} == {200}
    versions = [version for _, version in seen]
    assert versions == sorted(versions)
    assert versions[-1] == "3"


@pytest.mark.parametrize(
    ("seconds", "size"),
    [
        ({1: 0.080, 2: 0.166, 4: 0.340, 8: 0.700}, 1),  # a large picture on a CPU: batches gain nothing
        ({1: 0.0025, 2: 0.0044, 4: 0.0080, 8: 0.0150, 16: 0.0296, 32: 0.0590}, 8),
        ({1: 0.004, 2: 0.004, 4: 0.005, 8: 0.006, 64: 0.02}, 64),  # a GPU
    ],
)
def test_a_batch_is_no_larger_than_what_it_gains(seconds, size):
    assert best_batch_size(seconds) == size
