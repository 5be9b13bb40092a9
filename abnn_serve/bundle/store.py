"""Bundles on disk: written whole or not at all, and verified before they are returned."""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import tempfile
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from abnn_serve.bundle.manifest import MANIFEST, FileEntry, Manifest
from abnn_serve.card import RobustnessCard
from abnn_serve.codec import canonical, from_json, to_json
from abnn_serve.errors import BundleError, BundleIntegrityError, one_line
from abnn_serve.files import atomic_write, sync_directory
from abnn_serve.spec import Labels

T = TypeVar("T")
_AGAIN = "get the bundle again, or export it again"


@dataclass(frozen=True, slots=True, kw_only=True)
class Golden:
    """A few inputs, uint8 (n, H, W, 3) or (n, T, H, W, 3), and the logits they must give, float32 (n, classes)."""

    inputs: NDArray[np.uint8]
    logits: NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True)
class Bundle:
    """A verified bundle. `digest` is its identity: the sha256 of bundle.json, which covers every file."""

    path: Path
    digest: str
    manifest: Manifest
    labels: Labels
    card: RobustnessCard
    golden: Golden

    def read(self, name: str) -> bytes:
        """The bytes of a declared file, verified again: what is used is what was declared."""
        return _read_verified(self.path, name, self.manifest.files[name])


def load_bundle(path: str | Path, *, digest: str | None = None) -> Bundle:
    """Verify a bundle and return it.

    Args:
        path: the bundle's directory.
        digest: the identity it must have, as `abnn show` prints it; None accepts any.

    Raises:
        BundleError: there is no bundle at `path`.
        BundleVersionError: written by a newer abnn_serve.
        BundleIntegrityError: a file is changed, missing, undeclared or a link, or the identity is another.
    """
    path = Path(path)
    if not (path / MANIFEST).is_file():
        raise BundleError(f"{path}: no bundle here ({MANIFEST} not found); give the directory that `abnn export` wrote")
    data = (path / MANIFEST).read_bytes()
    found = hashlib.sha256(data).hexdigest()
    if digest is not None and found != digest.lower().removeprefix("sha256:"):
        raise BundleIntegrityError(
            f"{path} has the identity {found}, but {digest} is required; serve the bundle you pinned"
        )
    manifest = Manifest.from_bytes(data, str(path / MANIFEST))
    _refuse_strangers(path, manifest)
    contents = {name: _read_verified(path, name, entry) for name, entry in manifest.files.items()}
    card = _parse(RobustnessCard, contents, "card.json", path)
    if card.model_sha256 != manifest.files["model.onnx"].sha256:
        raise BundleIntegrityError(f"{path / 'card.json'} was measured on another model.onnx; {_AGAIN}")
    return Bundle(
        path=path,
        digest=found,
        manifest=manifest,
        labels=_parse(Labels, contents, "labels.json", path),
        card=card,
        golden=_golden(contents["golden.npz"], path),
    )


def write_bundle(
    path: str | Path,
    files: Mapping[str, bytes],
    describe: Callable[[dict[str, FileEntry]], Manifest],
    check: Callable[[Bundle], object] = lambda _: None,
) -> Bundle:
    """Write a bundle in one step: everything, verified, or nothing.

    Args:
        path: where it shall be; a bundle that is there is replaced, anything else is refused.
        files: contents of every file but bundle.json.
        describe: makes the manifest from the files' entries.
        check: looks at the finished bundle before it takes its place; what it raises leaves `path` as it was.
    """
    path = Path(path)
    if path.exists():
        _refuse_to_replace(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    try:
        entries = {
            name: FileEntry(sha256=hashlib.sha256(data).hexdigest(), bytes=len(data)) for name, data in files.items()
        }
        for name, data in [*files.items(), (MANIFEST, describe(entries).to_bytes())]:
            with atomic_write(aside / name) as file:
                file.write(data)
        aside.chmod(0o755)
        check(load_bundle(aside))
        _put_in_place(aside, path)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return load_bundle(path)


def with_card(bundle: Bundle, card: RobustnessCard) -> Bundle:
    """`bundle` with another card, in its place on disk; its identity changes with it."""
    files = {name: bundle.read(name) for name in bundle.manifest.files} | {"card.json": pack_json(card)}
    return write_bundle(bundle.path, files, lambda entries: replace(bundle.manifest, files=entries))


def pack_golden(golden: Golden) -> bytes:
    """The bytes of golden.npz; the same arrays give the same bytes."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name, array in (("inputs", golden.inputs), ("logits", golden.logits)):
            part = io.BytesIO()
            np.lib.format.write_array(part, np.ascontiguousarray(array), allow_pickle=False)
            archive.writestr(zipfile.ZipInfo(f"{name}.npy"), part.getvalue())
    return out.getvalue()


def pack_json(value: Labels | RobustnessCard) -> bytes:
    """The bytes of labels.json or card.json."""
    return canonical(to_json(value))


def _refuse_to_replace(path: Path) -> None:
    """A directory is deleted only if it holds a bundle and nothing else."""
    try:
        _refuse_strangers(path, Manifest.from_bytes((path / MANIFEST).read_bytes(), str(path / MANIFEST)))
    except (BundleError, OSError) as error:
        raise BundleError(
            f"{path} exists and is not just a bundle ({one_line(error)}); choose another place"
        ) from error


def _refuse_strangers(path: Path, manifest: Manifest) -> None:
    declared = {MANIFEST, *manifest.files}
    for entry in sorted(path.iterdir()):
        if entry.is_symlink():
            raise BundleIntegrityError(f"{entry} is a symbolic link, expected a plain file; copy the bundle whole")
        if entry.name not in declared:
            raise BundleIntegrityError(f"{entry} is not declared in {MANIFEST}; remove it, or {_AGAIN}")


def _read_verified(path: Path, name: str, entry: FileEntry) -> bytes:
    file = path / name
    if not file.is_file():
        raise BundleIntegrityError(f"{file} is missing; {_AGAIN}")
    size = file.stat().st_size
    if size != entry.bytes:
        raise BundleIntegrityError(f"{file} has {size:,} bytes, {MANIFEST} says {entry.bytes:,}; {_AGAIN}")
    data = file.read_bytes()
    if hashlib.sha256(data).hexdigest() != entry.sha256:
        raise BundleIntegrityError(
            f"{file} is damaged or was changed: its sha256 is not the one in {MANIFEST}; {_AGAIN}"
        )
    return data


def _parse(kind: type[T], contents: Mapping[str, bytes], name: str, path: Path) -> T:
    where = str(path / name)
    try:
        value = json.loads(contents[name])
    except ValueError as error:
        raise BundleIntegrityError(f"{where} is not JSON ({error}); {_AGAIN}") from error
    return from_json(kind, value, where, BundleIntegrityError)


def _golden(data: bytes, path: Path) -> Golden:
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
            golden = Golden(inputs=arrays["inputs"], logits=arrays["logits"])
    except Exception as error:  # numpy and zipfile raise many classes on damaged archives
        raise BundleIntegrityError(f"{path / 'golden.npz'}: {one_line(error)}; {_AGAIN}") from error
    if (
        golden.inputs.dtype != np.uint8
        or golden.logits.dtype != np.float32
        or not len(golden.inputs) == len(golden.logits) > 0
    ):
        raise BundleIntegrityError(f"{path / 'golden.npz'}: expected uint8 inputs and as many float32 logits; {_AGAIN}")
    return golden


def _put_in_place(aside: Path, path: Path) -> None:
    sync_directory(aside)
    if path.exists():
        old = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
        path.replace(old / "old")
        try:
            aside.replace(path)
        except OSError:
            (old / "old").replace(path)
            raise
        finally:
            shutil.rmtree(old)
    else:
        aside.replace(path)
    sync_directory(path.parent)
