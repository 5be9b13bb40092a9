"""Reload of signed bundles: only what a required key signed takes over."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from abnn_serve.bundle.manifest import SIGNATURE
from abnn_serve.bundle.signature import sign_bundle
from abnn_serve.bundle.store import Bundle, load_bundle
from abnn_serve.errors import BundleSignatureError
from abnn_serve.runtime.settings import Settings
from abnn_serve.service.catalog import Catalog
from abnn_serve.service.metrics import Metrics
from abnn_serve.service.settings import ServiceSettings
from tests.bundle.tampering import tamperings
from tests.keys import write_key_pair
from tests.service.conftest import write_version


def _signed(bundle: Bundle, folder: Path, version: str, key: Path) -> Path:
    """A signed bundle that appears whole, as `abnn sign` before a move into place makes it."""
    written = write_version(load_bundle(bundle.path), folder.parent / f"made-{version}", version, "shapes")
    sign_bundle(written, key)
    shutil.rmtree(folder, ignore_errors=True)
    return written.path.rename(folder)


def test_a_reload_refuses_a_hundred_of_a_hundred_tampered_bundles_and_serves_a_signed_one(bundle, tmp_path):
    (key, public), (other_key, _) = write_key_pair(tmp_path, "mine"), write_key_pair(tmp_path, "other")
    served = _signed(bundle, tmp_path / "served", "1", key)
    other = _signed(bundle, tmp_path / "others", "9", key)
    settings = Settings(bundle=served, device="cpu", threads=1, require_signature=(public,))
    catalog = Catalog(settings, ServiceSettings(max_batch=1), Metrics(workers=1))
    first = catalog.get().predictor.bundle.digest
    new = _signed(bundle, tmp_path / "new", "2", key)
    trials = list(tamperings(other_key, other))
    for _, tamper in trials:
        shutil.rmtree(served)
        shutil.copytree(new, served)
        tamper(served)
        catalog.refresh()
        assert catalog.get().predictor.bundle.digest == first
    assert len(trials) == 100
    shutil.rmtree(served)
    shutil.copytree(new, served)
    catalog.refresh()
    assert catalog.get().version == "2"


def test_an_unsigned_bundle_stops_the_start_and_is_never_reloaded(bundle, tmp_path):
    key, public = write_key_pair(tmp_path, "mine")
    served = _signed(bundle, tmp_path / "served", "1", key)
    settings = Settings(bundle=served, device="cpu", threads=1, require_signature=(public,))
    catalog = Catalog(settings, ServiceSettings(max_batch=1), Metrics(workers=1))
    write_version(load_bundle(bundle.path), served, "2", "shapes")
    assert not (served / SIGNATURE).exists()
    catalog.refresh()
    assert catalog.get().version == "1"
    with pytest.raises(BundleSignatureError, match="has no readable signature"):
        Catalog(settings, ServiceSettings(max_batch=1), Metrics(workers=1))
