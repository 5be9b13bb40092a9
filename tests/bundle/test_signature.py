from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from typer.testing import CliRunner

from abnn_serve.bundle.manifest import SIGNATURE
from abnn_serve.bundle.signature import sign_bundle, verify_signature
from abnn_serve.bundle.store import Bundle, load_bundle
from abnn_serve.cli.main import app
from abnn_serve.errors import BundleError, BundleSignatureError, ConfigError
from abnn_serve.runtime.predictor import Predictor
from abnn_serve.runtime.settings import Settings
from tests.bundle.tampering import tamperings
from tests.keys import write_key_pair
from tests.service.conftest import write_version


@pytest.fixture
def copy(bundle: Bundle, tmp_path: Path) -> Path:
    return Path(shutil.copytree(bundle.path, tmp_path / "copy"))


@pytest.mark.parametrize("curve", [ec.SECP256R1(), ec.SECP384R1(), ec.SECP521R1()], ids=lambda curve: curve.name)
def test_a_signed_bundle_is_loaded_and_names_the_key_that_signed_it(copy, tmp_path, curve):
    (key, public), (_, other) = write_key_pair(tmp_path, "mine", curve), write_key_pair(tmp_path, "other")
    sign_bundle(load_bundle(copy), key)
    assert verify_signature(load_bundle(copy), [other, public]) == public
    settings = Settings(bundle=copy, device="cpu", threads=1, require_signature=(other, public))
    assert Predictor.from_settings(settings).bundle.digest == load_bundle(copy).digest


def test_signing_again_replaces_the_signature_and_does_not_change_the_digest(bundle, copy, tmp_path):
    (key, public), (second, second_public) = write_key_pair(tmp_path, "a"), write_key_pair(tmp_path, "b")
    sign_bundle(load_bundle(copy), key)
    sign_bundle(load_bundle(copy), second)
    assert load_bundle(copy).digest == bundle.digest
    assert verify_signature(load_bundle(copy), [second_public]) == second_public
    with pytest.raises(BundleSignatureError, match="was not made by any of the keys"):
        verify_signature(load_bundle(copy), [public])


def test_a_hundred_of_a_hundred_tampered_bundles_are_refused(bundle, copy, tmp_path):
    (key, public), (other_key, _) = write_key_pair(tmp_path, "mine"), write_key_pair(tmp_path, "other")
    sign_bundle(load_bundle(copy), key)
    other = write_version(load_bundle(bundle.path), tmp_path / "other", "9")
    sign_bundle(other, key)
    trials = list(tamperings(other_key, other.path))
    assert len(trials) == 100
    accepted = []
    for number, (name, tamper) in enumerate(trials):
        tampered = Path(shutil.copytree(copy, tmp_path / "tampered", symlinks=True))
        tamper(tampered)
        try:
            verify_signature(load_bundle(tampered), [public])
        except BundleError as error:
            assert "\n" not in str(error)
        else:
            accepted.append((number, name))
        shutil.rmtree(tampered)
    assert accepted == []


def test_files_that_change_after_the_bundle_was_loaded_do_not_pass_for_the_signed_ones(bundle, copy, tmp_path):
    key, public = write_key_pair(tmp_path, "mine")
    loaded = load_bundle(copy)
    signed = write_version(load_bundle(bundle.path), tmp_path / "signed", "9")
    sign_bundle(signed, key)
    shutil.rmtree(copy)
    signed.path.rename(copy)  # now the directory holds a signed bundle, but an unsigned one is in memory
    with pytest.raises(BundleSignatureError, match="is a signature of other files"):
        verify_signature(loaded, [public])


def test_an_unsigned_bundle_is_refused_only_where_a_signature_is_required(bundle, tmp_path):
    _, public = write_key_pair(tmp_path, "mine")
    settings = Settings(bundle=bundle.path, device="cpu", threads=1)
    assert Predictor.from_settings(settings)
    with pytest.raises(BundleSignatureError, match=f"has no readable {SIGNATURE}"):
        verify_signature(bundle, [public])


def test_keys_of_another_type_and_damaged_keys_are_one_line(copy, tmp_path):
    private = ed25519.Ed25519PrivateKey.generate()
    pem = private.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    (tmp_path / "ed.pem").write_bytes(pem)
    (tmp_path / "text.pem").write_text("key")
    with pytest.raises(ConfigError, match="not an elliptic-curve private key, expected P-256"):
        sign_bundle(load_bundle(copy), tmp_path / "ed.pem")
    for name in ("text.pem", "missing.pem"):
        with pytest.raises(ConfigError, match="cannot read the private key"):
            sign_bundle(load_bundle(copy), tmp_path / name)
        with pytest.raises(ConfigError, match="cannot read the public key"):
            verify_signature(load_bundle(copy), [tmp_path / name])


def test_an_encrypted_key_needs_its_password(copy, tmp_path):
    private = ec.generate_private_key(ec.SECP256R1())
    encryption = serialization.BestAvailableEncryption(b"secret")
    (tmp_path / "key.pem").write_bytes(
        private.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption)
    )
    assert sign_bundle(load_bundle(copy), tmp_path / "key.pem", lambda: "secret") == copy / SIGNATURE
    for ask_password in (None, lambda: "wrong"):
        with pytest.raises(ConfigError, match="cannot read the private key"):
            sign_bundle(load_bundle(copy), tmp_path / "key.pem", ask_password)


def test_the_commands_sign_and_verify_with_keys_of_openssl(copy, tmp_path):
    key, public = tmp_path / "key.pem", tmp_path / "key.pub"
    try:
        subprocess.run(["openssl", "ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", key], check=True)
        subprocess.run(["openssl", "ec", "-in", key, "-pubout", "-out", public], check=True, stderr=subprocess.PIPE)
    except FileNotFoundError:
        pytest.skip("needs openssl")
    signed = CliRunner().invoke(app, ["sign", str(copy), "--key", str(key)])
    assert f"signed identity {load_bundle(copy).digest}" in signed.stdout
    verified = CliRunner().invoke(app, ["verify", str(copy), "--key", str(public)])
    assert f"signed by {public}" in verified.stdout
    (copy / SIGNATURE).unlink()
    refused = CliRunner().invoke(app, ["verify", str(copy), "--key", str(public)])
    assert isinstance(refused.exception, BundleSignatureError)


def test_model_signing_accepts_our_signature_and_we_accept_its(copy, tmp_path):
    pytest.importorskip("model_signing", reason="needs model-signing and pyOpenSSL", exc_type=ImportError)
    key, public = write_key_pair(tmp_path, "mine")
    signature = sign_bundle(load_bundle(copy), key)
    verify = ["verify", "key", copy, "--signature", signature, "--public_key", public]
    subprocess.run([sys.executable, "-m", "model_signing", *verify], check=True)
    signature.unlink()
    sign = ["sign", "key", copy, "--signature", signature, "--private_key", key]
    subprocess.run([sys.executable, "-m", "model_signing", *sign], check=True)
    assert json.loads(signature.read_bytes())["dsseEnvelope"]
    assert verify_signature(load_bundle(copy), [public]) == public
