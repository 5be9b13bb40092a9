"""Signs bundles and verifies their signatures: who made this bundle, in the format of OpenSSF model signing v1.0.

`signature.sigstore` in the bundle's directory is a Sigstore bundle: a DSSE envelope of an in-toto statement that lists
the SHA-256 of every file, signed with ECDSA. Only `cryptography` is needed; the package model-signing reads and writes
the same file, but imports 600 modules in five seconds, which no worker should load.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from abnn_serve.bundle.manifest import MANIFEST, SIGNATURE
from abnn_serve.bundle.store import Bundle
from abnn_serve.errors import BundleSignatureError, ConfigError, one_line
from abnn_serve.files import atomic_write

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey, EllipticCurvePublicKey

T = TypeVar("T")

_MEDIA_TYPE = "application/vnd.dev.sigstore.bundle.v0.3+json"
_PAYLOAD_TYPE = "application/vnd.in-toto+json"
_PREDICATE_TYPE = "https://model_signing/signature/v1.0"
_HASHES = {"secp256r1": "SHA256", "secp384r1": "SHA384", "secp521r1": "SHA512"}
_MAX_BYTES = 1_000_000  # a bundle's signature has about 3 KB


def sign_bundle(bundle: Bundle, key: Path, ask_password: Callable[[], str] | None = None) -> Path:
    """Sign a bundle with a private key and return the path of the signature, which replaces an older one.

    Args:
        bundle: a verified bundle.
        key: PEM file of an elliptic-curve private key (P-256, P-384 or P-521).
        ask_password: called if the key is encrypted.

    Raises:
        ConfigError: the key cannot be read or has another type.
    """
    private = _private_key(key, ask_password)
    payload = json.dumps(_statement(bundle), sort_keys=True).encode()
    signature = private.sign(_pre_authentication_encoding(payload), _algorithm(private.public_key()))
    envelope = {
        "payload": base64.b64encode(payload).decode(),
        "payloadType": _PAYLOAD_TYPE,
        "signatures": [{"sig": base64.b64encode(signature).decode(), "keyid": ""}],
    }
    material = {"publicKey": {"hint": fingerprint(private.public_key())}, "tlogEntries": []}
    value = {"mediaType": _MEDIA_TYPE, "verificationMaterial": material, "dsseEnvelope": envelope}
    with atomic_write(bundle.path / SIGNATURE) as file:
        file.write(json.dumps(value).encode())
    return bundle.path / SIGNATURE


def verify_signature(bundle: Bundle, keys: Iterable[Path]) -> Path:
    """Check that one of `keys` signed exactly the files that were loaded, and return that key.

    The statement is compared with the manifest in memory, so changing files after the bundle was loaded gains nothing.

    Args:
        bundle: a loaded bundle.
        keys: PEM files of elliptic-curve public keys.

    Raises:
        ConfigError: a key cannot be read or has another type.
        BundleSignatureError: the bundle has no signature, or none of `keys` made it for these files.
    """
    from cryptography.exceptions import InvalidSignature

    known = {path: _public_key(path) for path in keys}
    path = bundle.path / SIGNATURE
    signature, payload = _read_envelope(path)
    for key_path, key in known.items():
        try:
            key.verify(signature, _pre_authentication_encoding(payload), _algorithm(key))
        except InvalidSignature:
            continue
        if _parse(_signed_files, payload, path) != _digests(bundle):
            raise BundleSignatureError(
                f"{path} is a signature of other files than those of {bundle.path}; sign it again with `abnn sign`"
            )
        return key_path
    raise BundleSignatureError(
        f"{path} was not made by any of the keys {', '.join(map(str, known))}; have the bundle signed with `abnn sign`"
    )


def fingerprint(key: EllipticCurvePublicKey) -> str:
    """SHA-256, in hexadecimal, of the PEM of a public key: the hint in a signature."""
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    return hashlib.sha256(key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)).hexdigest()


def _digests(bundle: Bundle) -> dict[str, str]:
    return {MANIFEST: bundle.digest, **{name: entry.sha256 for name, entry in bundle.manifest.files.items()}}


def _statement(bundle: Bundle) -> dict[str, Any]:
    digests = dict(sorted(_digests(bundle).items()))
    resources = [{"name": name, "algorithm": "sha256", "digest": digest} for name, digest in digests.items()]
    root = hashlib.sha256(b"".join(bytes.fromhex(digest) for digest in digests.values())).hexdigest()
    serialization = {
        "method": "files",
        "hash_type": "sha256",
        "allow_symlinks": False,
        "ignore_paths": [SIGNATURE],
    }
    return {
        "_type": "https://in-toto.io/Statement/v1",
        "subject": [{"name": bundle.manifest.name, "digest": {"sha256": root}}],
        "predicateType": _PREDICATE_TYPE,
        "predicate": {"serialization": serialization, "resources": resources},
    }


def _read_envelope(path: Path) -> tuple[bytes, bytes]:
    """The signature and the payload in a signature file."""
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_BYTES + 1)
    except OSError as error:
        raise BundleSignatureError(
            f"{path.parent} has no readable {SIGNATURE} ({error.strerror}); sign the bundle with `abnn sign`"
        ) from error
    return _parse(_envelope, data, path)


def _envelope(data: bytes) -> tuple[bytes, bytes]:
    if len(data) > _MAX_BYTES:
        raise ValueError(f"more than {_MAX_BYTES:,} bytes")
    value = json.loads(data)
    envelope = value["dsseEnvelope"]
    if value["mediaType"] != _MEDIA_TYPE:
        raise ValueError(f"another media type than {_MEDIA_TYPE}")
    if envelope["payloadType"] != _PAYLOAD_TYPE:
        raise ValueError(f"another payload type than {_PAYLOAD_TYPE}")
    (signature,) = envelope["signatures"]
    decode = base64.b64decode
    return decode(signature["sig"], validate=True), decode(envelope["payload"], validate=True)


def _signed_files(payload: bytes) -> Mapping[str, str]:
    """SHA-256 by file name in a statement whose signature is valid."""
    statement = json.loads(payload)
    predicate = statement["predicate"]
    if statement["predicateType"] != _PREDICATE_TYPE or predicate["serialization"]["method"] != "files":
        raise ValueError(f"another predicate than {_PREDICATE_TYPE} by files")
    resources = [(item["name"], item["algorithm"], item["digest"]) for item in predicate["resources"]]
    if any(algorithm != "sha256" for _, algorithm, _ in resources):
        raise ValueError("a digest that is not sha256")
    digests = {name: digest for name, _, digest in resources}
    if len(digests) != len(resources):
        raise ValueError("a file name that appears twice")
    return digests


def _parse(read: Callable[[bytes], T], data: bytes, path: Path) -> T:
    try:
        return read(data)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        problem = one_line(error) if isinstance(error, ValueError) else f"{type(error).__name__}: {one_line(error)}"
        raise BundleSignatureError(
            f"{path} is not a model signature ({problem}); sign the bundle again with `abnn sign`"
        ) from error


def _pre_authentication_encoding(payload: bytes) -> bytes:
    """The bytes that DSSE v1 signs."""
    return b"DSSEv1 %d %s %d %s" % (len(_PAYLOAD_TYPE), _PAYLOAD_TYPE.encode(), len(payload), payload)


def _algorithm(key: EllipticCurvePublicKey) -> Any:
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec

    return ec.ECDSA(getattr(hashes, _HASHES[key.curve.name])())


def _public_key(path: Path) -> EllipticCurvePublicKey:
    serialization = _serialization()
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey

    try:
        key = serialization.load_pem_public_key(path.read_bytes())
    except (OSError, ValueError) as error:
        raise ConfigError(f"cannot read the public key {path} ({one_line(error)}); expected a PEM file") from error
    if not isinstance(key, EllipticCurvePublicKey) or key.curve.name not in _HASHES:
        raise ConfigError(f"{path} is not an elliptic-curve public key, expected P-256, P-384 or P-521")
    return key


def _private_key(path: Path, ask_password: Callable[[], str] | None) -> EllipticCurvePrivateKey:
    serialization = _serialization()
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey

    try:
        data = path.read_bytes()
        try:
            key = serialization.load_pem_private_key(data, None)
        except TypeError:  # encrypted
            if ask_password is None:
                raise
            key = serialization.load_pem_private_key(data, ask_password().encode())
    except (OSError, ValueError, TypeError) as error:
        raise ConfigError(f"cannot read the private key {path} ({one_line(error)}); expected a PEM file") from error
    if not isinstance(key, EllipticCurvePrivateKey) or key.curve.name not in _HASHES:
        raise ConfigError(f"{path} is not an elliptic-curve private key, expected P-256, P-384 or P-521")
    return key


def _serialization() -> Any:
    try:
        from cryptography.hazmat.primitives import serialization
    except ImportError as error:
        raise ConfigError("signatures need cryptography; install it with: pip install 'abnn_serve[sign]'") from error
    return serialization
