from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from abnn_serve.bundle.manifest import MANIFEST, Manifest
from abnn_serve.bundle.store import Bundle, load_bundle, pack_json, write_bundle
from abnn_serve.codec import canonical
from abnn_serve.errors import BundleError, BundleIntegrityError, BundleVersionError
from tests.bundle.rewriting import contents, described


@pytest.fixture
def copy(bundle: Bundle, tmp_path: Path) -> Path:
    return Path(shutil.copytree(bundle.path, tmp_path / "copy"))


def _rewrite(path: Path, **changes: object) -> None:
    """Edit bundle.json as a forger would, with a right checksum in canonical form."""
    value = {**json.loads((path / MANIFEST).read_bytes()), **changes}
    value.pop("checksum")
    checksum = hashlib.sha256(canonical(value)).hexdigest()
    (path / MANIFEST).write_bytes(canonical({**value, "checksum": checksum}))


def test_a_bundle_is_loaded_with_its_parts(bundle):
    assert bundle.manifest.name == "shapes"
    assert bundle.labels.names == ("circle", "square", "triangle")
    assert bundle.card.model_sha256 == hashlib.sha256(bundle.read("model.onnx")).hexdigest()
    assert bundle.digest == hashlib.sha256((bundle.path / MANIFEST).read_bytes()).hexdigest()
    assert sorted(p.name for p in bundle.path.iterdir()) == sorted([MANIFEST, *bundle.manifest.files])


@pytest.mark.parametrize("name", ["model.onnx", "labels.json", "card.json", "golden.npz", MANIFEST])
@pytest.mark.parametrize("where", [0.0, 0.5, 0.999])
def test_one_flipped_bit_in_any_file_is_found(copy, name, where):
    file = copy / name
    data = bytearray(file.read_bytes())
    data[int(where * (len(data) - 1))] ^= 1
    file.write_bytes(data)
    with pytest.raises(BundleIntegrityError, match=r"is damaged|is not JSON|unknown key"):
        load_bundle(copy)


@given(st.data())
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_change_of_a_byte_of_the_manifest_goes_unnoticed(bundle, data):
    original = (bundle.path / MANIFEST).read_bytes()
    at = data.draw(st.integers(0, len(original) - 1))
    byte = data.draw(st.integers(0, 255).filter(lambda value: value != original[at]))
    changed = original[:at] + bytes([byte]) + original[at + 1 :]
    with pytest.raises((BundleIntegrityError, BundleVersionError)):
        Manifest.from_bytes(changed, MANIFEST)


def test_a_missing_file_is_named(copy):
    (copy / "labels.json").unlink()
    with pytest.raises(BundleIntegrityError, match=r"labels\.json is missing; download or export the bundle again"):
        load_bundle(copy)


def test_an_extra_file_is_named(copy):
    (copy / "notes.txt").write_text("hello")
    with pytest.raises(BundleIntegrityError, match=r"notes\.txt is not declared in bundle\.json; remove it"):
        load_bundle(copy)


def test_a_symbolic_link_is_refused(copy, tmp_path):
    shutil.move(copy / "labels.json", tmp_path / "labels.json")
    (copy / "labels.json").symlink_to(tmp_path / "labels.json")
    with pytest.raises(BundleIntegrityError, match=r"labels\.json is a symbolic link"):
        load_bundle(copy)


def test_a_file_of_another_size_says_both_sizes(copy):
    with (copy / "model.onnx").open("ab") as file:
        file.write(b"x")
    with pytest.raises(BundleIntegrityError, match=r"model\.onnx has [\d,]+ bytes, but bundle\.json says [\d,]+"):
        load_bundle(copy)


def test_a_newer_format_asks_for_an_upgrade(copy):
    _rewrite(copy, format_version=5)
    with pytest.raises(
        BundleVersionError, match="format_version 5, but this abnn_serve reads up to 4; upgrade abnn_serve"
    ):
        load_bundle(copy)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"colour": 1}, "unknown key 'colour'"),
        ({"name": "../up"}, "bundle name is '../up'"),
        ({"opset": "20"}, "opset is '20', expected a JSON whole number"),
        ({"stats_scope": "batch"}, "stats_scope is 'batch', expected one of sample"),
        ({"files": {}}, r"files has no 'model\.onnx'"),
        ({"format_version": 0}, "format_version is 0"),
    ],
)
def test_a_manifest_that_does_not_fit_is_refused_by_key(copy, changes, message):
    _rewrite(copy, **changes)
    with pytest.raises(BundleIntegrityError, match=message):
        load_bundle(copy)


@pytest.mark.parametrize("name", ["/etc/passwd", "../labels.json", "a/b", MANIFEST, ""])
def test_a_manifest_may_name_only_plain_files_inside_the_bundle(copy, name):
    files = json.loads((copy / MANIFEST).read_bytes())["files"]
    _rewrite(copy, files={**files, name: {"sha256": "0", "bytes": 0}})
    with pytest.raises(BundleIntegrityError, match="expected a plain file name inside the bundle"):
        load_bundle(copy)


def test_a_manifest_edited_by_hand_is_not_canonical(copy):
    value = json.loads((copy / MANIFEST).read_bytes())
    (copy / MANIFEST).write_text(json.dumps(value))
    with pytest.raises(BundleIntegrityError, match="its checksum is wrong or it is not canonical"):
        load_bundle(copy)


def test_a_manifest_that_is_not_json_is_refused(copy):
    (copy / MANIFEST).write_text("{")
    with pytest.raises(BundleIntegrityError, match="is not JSON"):
        load_bundle(copy)


def test_a_directory_without_a_bundle_says_what_to_give(tmp_path):
    with pytest.raises(BundleError, match=r"is not a bundle \(bundle\.json not found\); give a directory"):
        load_bundle(tmp_path)


def test_a_pinned_identity_must_match(bundle):
    assert (
        load_bundle(bundle.path, digest=f"sha256:{bundle.digest.upper()}".replace("SHA256", "sha256")).digest
        == bundle.digest
    )
    with pytest.raises(BundleIntegrityError, match=r"has digest .*, but 00 is required; check ABNN_BUNDLE"):
        load_bundle(bundle.path, digest="00")


def test_a_file_changed_after_loading_is_not_used(copy):
    loaded = load_bundle(copy)
    data = bytearray((copy / "model.onnx").read_bytes())
    data[-1] ^= 1
    (copy / "model.onnx").write_bytes(data)
    with pytest.raises(BundleIntegrityError, match=r"model\.onnx is damaged or was changed"):
        loaded.read("model.onnx")


def test_writing_replaces_a_bundle_whole(bundle, copy):
    written = write_bundle(copy, contents(bundle), described(bundle, version="2"))
    assert written.manifest.version == "2"
    assert [p.name for p in copy.parent.iterdir()] == ["copy"]


def test_a_failed_check_leaves_the_old_bundle_and_nothing_else(bundle, copy):
    def refuse(_: Bundle) -> None:
        raise BundleError("no")

    with pytest.raises(BundleError, match="no"):
        write_bundle(copy, contents(bundle), described(bundle, version="2"), check=refuse)
    assert load_bundle(copy).digest == bundle.digest
    assert [p.name for p in copy.parent.iterdir()] == ["copy"]


def test_something_that_is_not_a_bundle_is_never_replaced(bundle, tmp_path):
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "thesis.txt").write_text("work")
    with pytest.raises(BundleError, match="exists and is not just a bundle"):
        write_bundle(tmp_path / "precious", contents(bundle), described(bundle))
    assert (tmp_path / "precious" / "thesis.txt").read_text() == "work"


def test_a_bundle_with_something_else_beside_it_is_never_replaced(bundle, copy):
    (copy / "thesis.txt").write_text("work")
    with pytest.raises(BundleError, match=r"is not just a bundle \(.*thesis\.txt is not declared"):
        write_bundle(copy, contents(bundle), described(bundle))
    assert (copy / "thesis.txt").read_text() == "work"


def test_a_card_of_another_model_is_refused(bundle, tmp_path):
    card = pack_json(replace(bundle.card, model_sha256="0" * 64))
    with pytest.raises(BundleIntegrityError, match=r"card\.json describes another model\.onnx"):
        write_bundle(tmp_path / "b", {**contents(bundle), "card.json": card}, described(bundle))


@pytest.mark.parametrize("data", [b"", b"PK\x05\x06" + b"\0" * 18, b"\x93NUMPY"])
def test_damaged_golden_vectors_are_refused(bundle, tmp_path, data):
    with pytest.raises(BundleIntegrityError, match=r"golden\.npz"):
        write_bundle(tmp_path / "b", {**contents(bundle), "golden.npz": data}, described(bundle))


@pytest.mark.parametrize("text", ['{"parity": 1e999}', '{"name": "\\ud800"}', "[" * 100_000])
def test_json_that_no_manifest_holds_is_refused(text):
    with pytest.raises(BundleIntegrityError):
        Manifest.from_bytes(text.encode(), MANIFEST)
