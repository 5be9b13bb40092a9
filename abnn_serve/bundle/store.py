"""Reads and writes bundles: loading verifies every file, writing is atomic."""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from abnn_serve.bundle.golden import Golden, unpack_golden
from abnn_serve.bundle.graph_checks import check_graph
from abnn_serve.bundle.manifest import MANIFEST, SIGNATURE, FileEntry, Manifest
from abnn_serve.card import RobustnessCard
from abnn_serve.codec import canonical, from_json, to_json
from abnn_serve.errors import BundleError, BundleIntegrityError, one_line
from abnn_serve.files import atomic_write, sync_directory
from abnn_serve.spec import Labels

T = TypeVar("T")
_REMEDY = "download or export the bundle again"


@dataclass(frozen=True, slots=True, kw_only=True)
class Bundle:
    """A verified bundle. `digest` is the SHA-256 of bundle.json, which contains the SHA-256 of every other file."""

    path: Path
    digest: str
    manifest: Manifest
    labels: Labels
    card: RobustnessCard
    golden: Golden

    def read(self, name: str) -> bytes:
        """Read a file of the bundle and verify it again.

        Raises:
            BundleIntegrityError: the file changed since the bundle was loaded.
        """
        return _read_verified(self.path, name, self.manifest.files[name])


def load_bundle(path: str | Path, *, digest: str | None = None) -> Bundle:
    """Load a bundle and verify every file.

    Args:
        path: the bundle's directory.
        digest: required digest, as `abnn show` prints it; None accepts any.

    Raises:
        BundleError: `path` has no bundle.
        BundleVersionError: a newer abnn_serve wrote the bundle.
        BundleIntegrityError: a file is changed, missing, undeclared or a symbolic link, the digest differs, a graph is
            not self-contained (`check_graph`), or the golden vectors have another shape than the input.
    """
    path = Path(path)
    if not (path / MANIFEST).is_file():
        raise BundleError(f"{path} is not a bundle ({MANIFEST} not found); give a directory that `abnn export` wrote")
    data = (path / MANIFEST).read_bytes()
    actual_digest = hashlib.sha256(data).hexdigest()
    if digest is not None and actual_digest != digest.lower().removeprefix("sha256:"):
        raise BundleIntegrityError(
            f"{path} has digest {actual_digest}, but {digest} is required; check ABNN_BUNDLE and ABNN_BUNDLE_DIGEST"
        )
    manifest = Manifest.from_bytes(data, str(path / MANIFEST))
    _check_no_extra_files(path, manifest)
    contents = {name: _read_verified(path, name, entry) for name, entry in manifest.files.items()}
    for name, data in contents.items():
        if name.endswith(".onnx"):
            check_graph(data, str(path / name))
    card = _parse(RobustnessCard, contents, "card.json", path)
    if card.model_sha256 != manifest.files["model.onnx"].sha256:
        raise BundleIntegrityError(f"{path / 'card.json'} describes another model.onnx; {_REMEDY}")
    return Bundle(
        path=path,
        digest=actual_digest,
        manifest=manifest,
        labels=_parse(Labels, contents, "labels.json", path),
        card=card,
        golden=unpack_golden(contents["golden.npz"], manifest.input.shape, str(path / "golden.npz")),
    )


def write_bundle(
    path: str | Path,
    files: Mapping[str, bytes],
    describe: Callable[[dict[str, FileEntry]], Manifest],
    check: Callable[[Bundle], object] = lambda _: None,
) -> Bundle:
    """Write a bundle atomically, and verify it.

    Args:
        path: target directory; an existing bundle is replaced, anything else is an error.
        files: contents of all files except bundle.json.
        describe: returns the manifest for the files' entries.
        check: called with the finished bundle before it replaces `path`; if it raises, `path` stays unchanged.

    Raises:
        BundleError: `path` exists and is not a bundle.
    """
    path = Path(path)
    if path.exists():
        _check_replaceable(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    try:
        entries = {
            name: FileEntry(sha256=hashlib.sha256(data).hexdigest(), bytes=len(data)) for name, data in files.items()
        }
        for name, data in [*files.items(), (MANIFEST, describe(entries).to_bytes())]:
            with atomic_write(staging / name) as file:
                file.write(data)
        staging.chmod(0o755)
        check(load_bundle(staging))
        _swap_in(staging, path)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return load_bundle(path)


def with_card(bundle: Bundle, card: RobustnessCard) -> Bundle:
    """Replace the card of a bundle on disk. This changes the bundle's digest."""
    files = {name: bundle.read(name) for name in bundle.manifest.files} | {"card.json": pack_json(card)}
    return write_bundle(bundle.path, files, lambda entries: replace(bundle.manifest, files=entries))


def pack_json(value: Labels | RobustnessCard) -> bytes:
    """Bytes of labels.json or card.json."""
    return canonical(to_json(value))


def _check_replaceable(path: Path) -> None:
    """Check that a directory holds a bundle and nothing else, since replacing it deletes it."""
    try:
        _check_no_extra_files(path, Manifest.from_bytes((path / MANIFEST).read_bytes(), str(path / MANIFEST)))
    except (BundleError, OSError) as error:
        raise BundleError(
            f"{path} exists and is not just a bundle ({one_line(error)}); choose another directory"
        ) from error


def _check_no_extra_files(path: Path, manifest: Manifest) -> None:
    declared = {MANIFEST, SIGNATURE, *manifest.files}
    for entry in sorted(path.iterdir()):
        if entry.is_symlink():
            raise BundleIntegrityError(
                f"{entry} is a symbolic link, expected a plain file; copy the bundle with its files"
            )
        if entry.name not in declared:
            raise BundleIntegrityError(f"{entry} is not declared in {MANIFEST}; remove it, or {_REMEDY}")


def _read_verified(path: Path, name: str, entry: FileEntry) -> bytes:
    file = path / name
    if not file.is_file():
        raise BundleIntegrityError(f"{file} is missing; {_REMEDY}")
    size = file.stat().st_size
    if size != entry.bytes:
        raise BundleIntegrityError(f"{file} has {size:,} bytes, but {MANIFEST} says {entry.bytes:,}; {_REMEDY}")
    data = file.read_bytes()
    if hashlib.sha256(data).hexdigest() != entry.sha256:
        raise BundleIntegrityError(f"{file} is damaged or was changed: its SHA-256 differs from {MANIFEST}; {_REMEDY}")
    return data


def _parse(kind: type[T], contents: Mapping[str, bytes], name: str, path: Path) -> T:
    where = str(path / name)
    try:
        value = json.loads(contents[name])
    except ValueError as error:
        raise BundleIntegrityError(f"{where} is not JSON ({error}); {_REMEDY}") from error
    return from_json(kind, value, where, BundleIntegrityError)


def _swap_in(staging: Path, path: Path) -> None:
    sync_directory(staging)
    if path.exists():
        old = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
        path.replace(old / "old")
        try:
            staging.replace(path)
        except OSError:
            (old / "old").replace(path)
            raise
        finally:
            shutil.rmtree(old)
    else:
        staging.replace(path)
    sync_directory(path.parent)
