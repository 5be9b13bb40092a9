"""A hundred ways to tamper with a signed bundle on disk."""

from __future__ import annotations

import base64
import hashlib
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from abnn_serve.bundle.manifest import MANIFEST, SIGNATURE
from abnn_serve.bundle.signature import sign_bundle
from abnn_serve.bundle.store import load_bundle
from abnn_serve.codec import canonical

Tampering = Callable[[Path], None]


def tamperings(other_key: Path, other_bundle: Path) -> Iterator[tuple[str, Tampering]]:
    """A hundred named changes of the directory of a signed bundle.

    `other_key` signed nothing that is trusted; `other_bundle` is another bundle with a valid, trusted signature.
    """
    rng = np.random.default_rng(11)
    files = (MANIFEST, "model.onnx", "labels.json", "card.json", "golden.npz")
    for name in files:
        for fraction in rng.random(8):
            yield f"flip a bit of {name}", lambda path, name=name, at=float(fraction): _flip(path / name, at)
    for field in ("payload", "sig"):
        for fraction in rng.random(4):
            yield (
                "flip a bit of the envelope",
                lambda path, field=field, at=float(fraction): _flip_field(path, field, at),
            )
    for name in ("labels.json", "card.json", "model.onnx", "golden.npz"):
        for size in (0, 1, 17, 1000):
            yield (
                f"append {size} bytes, with a new manifest",
                lambda path, name=name, size=size: _rewrite(path, name, size),
            )
    for fraction in np.linspace(0, 0.99, 12):
        yield "cut the signature", lambda path, share=float(fraction): _cut(path / SIGNATURE, share)
    for edit in _ENVELOPES:
        yield "edit the envelope", lambda path, edit=edit: _edit_envelope(path / SIGNATURE, edit)
    for _ in range(3):
        yield "sign with another key", lambda path: _sign(path, other_key)
        yield "sign a forgery with another key", lambda path: (_rewrite(path, "labels.json", 0), _sign(path, other_key))
        yield "take another bundle's signature", lambda path: _copy(other_bundle / SIGNATURE, path / SIGNATURE)
    yield "remove the signature", lambda path: (path / SIGNATURE).unlink()
    yield "make the signature a directory", lambda path: ((path / SIGNATURE).unlink(), (path / SIGNATURE).mkdir())
    yield "make the signature huge", lambda path: (path / SIGNATURE).write_bytes(b" " * 1_000_001)
    yield "link to the signature", lambda path: _link(path, other_bundle)
    yield "link to the model", lambda path: ((path / "model.onnx").unlink(), (path / "model.onnx").symlink_to("x"))
    yield "add a file", lambda path: (path / "model.int8.onnx").write_bytes(b"")


def _flip(file: Path, at: float) -> None:
    data = bytearray(file.read_bytes())
    data[int(at * (len(data) - 1))] ^= 1
    file.write_bytes(data)


def _flip_field(path: Path, field: str, at: float) -> None:
    """Flip a bit of the statement or of the signature over it; the rest of the file is not signed and means nothing."""
    value = json.loads((path / SIGNATURE).read_bytes())
    holder = value["dsseEnvelope"] if field == "payload" else value["dsseEnvelope"]["signatures"][0]
    data = bytearray(base64.b64decode(holder[field]))
    data[int(at * (len(data) - 1))] ^= 1
    holder[field] = base64.b64encode(data).decode()
    (path / SIGNATURE).write_bytes(json.dumps(value).encode())


def _cut(file: Path, share: float) -> None:
    data = file.read_bytes()
    file.write_bytes(data[: int(share * len(data))])


def _rewrite(path: Path, name: str, size: int) -> None:
    """Change a file as a forger would: with its new SHA-256, and a new checksum, in a canonical manifest."""
    data = (path / name).read_bytes() + b" " * (size or 2)
    (path / name).write_bytes(data)
    value = json.loads((path / MANIFEST).read_bytes())
    value.pop("checksum")
    value["files"][name] = {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}
    (path / MANIFEST).write_bytes(canonical({**value, "checksum": hashlib.sha256(canonical(value)).hexdigest()}))


def _sign(path: Path, key: Path) -> None:
    (path / SIGNATURE).unlink()
    sign_bundle(load_bundle(path), key)


def _copy(source: Path, target: Path) -> None:
    target.write_bytes(source.read_bytes())


def _link(path: Path, other_bundle: Path) -> None:
    shutil.copy(path / SIGNATURE, other_bundle.parent / "elsewhere")
    (path / SIGNATURE).unlink()
    (path / SIGNATURE).symlink_to(other_bundle.parent / "elsewhere")


def _edit_envelope(file: Path, edit: Callable[[dict], object]) -> None:
    value = json.loads(file.read_bytes())
    edit(value)
    file.write_bytes(json.dumps(value).encode())


def _with_digest(value: dict) -> None:
    """Change a digest in the statement without signing it."""
    statement = json.loads(base64.b64decode(value["dsseEnvelope"]["payload"]))
    statement["predicate"]["resources"][0]["digest"] = "0" * 64
    value["dsseEnvelope"]["payload"] = base64.b64encode(json.dumps(statement).encode()).decode()


_ENVELOPES: tuple[Callable[[dict], object], ...] = (
    _with_digest,
    lambda value: value["dsseEnvelope"].update(payloadType="text/plain"),
    lambda value: value["dsseEnvelope"].update(signatures=[]),
    lambda value: value["dsseEnvelope"]["signatures"].append({"sig": "", "keyid": ""}),
    lambda value: value["dsseEnvelope"]["signatures"][0].update(sig=""),
    lambda value: value["dsseEnvelope"]["signatures"][0].update(sig="!!"),
    lambda value: value["dsseEnvelope"]["signatures"][0].update(sig=7),
    lambda value: value["dsseEnvelope"].update(payload=""),
    lambda value: value.pop("dsseEnvelope"),
)
