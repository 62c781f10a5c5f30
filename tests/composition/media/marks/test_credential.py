"""Signing with a configured certificate: key files, callbacks, a key management service."""

import asyncio
import socket
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import boto3
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_der_public_key,
)
from moto.server import ThreadedMotoServer

from composition.media.marks.credential import convert_to_raw, load_credential, load_trust_anchors
from composition.media.marks.marker import Marker
from composition.media.marks.settings import Algorithm, MarksSettings, SigningSettings
from services.errors import ConfigError, ServiceLost
from tests.composition.media.marks import callbacks
from tests.composition.media.marks.authority import Authority, PrivateKey, write_key
from tests.composition.media.marks.samples import MADE, get_active, list_failures, read_store, write_file

EXAMPLES = Path(__file__).parents[4] / "deploy" / "signing"
CALLBACKS = "tests.composition.media.marks.callbacks"
KEYS: dict[Algorithm, PrivateKey] = {
    "es256": ec.generate_private_key(ec.SECP256R1()),
    "es384": ec.generate_private_key(ec.SECP384R1()),
    "ps256": rsa.generate_private_key(65537, 2048),
    "ed25519": ed25519.Ed25519PrivateKey.generate(),
}


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority()


def write_settings(folder: Path, authority: Authority, algorithm: Algorithm = "es256") -> SigningSettings:
    """Write a certificate and its key."""
    key = KEYS[algorithm]
    certificate, file = folder / "certificate.pem", folder / "key.pem"
    certificate.write_bytes(authority.issue(key.public_key()))
    file.write_bytes(write_key(key))
    return SigningSettings(certificate=certificate, key=file, algorithm=algorithm)


def write_callback(folder: Path, authority: Authority, function: str) -> SigningSettings:
    certificate = folder / "certificate.pem"
    certificate.write_bytes(authority.issue(callbacks.KEY.public_key()))
    return SigningSettings(certificate=certificate, callback=f"{CALLBACKS}:{function}")


async def check_signing(settings: SigningSettings, authority: Authority, folder: Path) -> None:
    """Sign a file, which is trusted by those who trust the authority."""
    path = write_file(folder, "jpeg")
    await Marker(MarksSettings(signing=settings), folder / "state").mark_file(path, "jpeg", MADE)
    store = read_store(path, "jpeg")
    assert store["validation_state"] == "Valid"
    assert list_failures(store) == ["signingCredential.untrusted"]
    assert get_active(store)["signature_info"]["issuer"] == "Example Studio"
    assert read_store(path, "jpeg", authority.pem)["validation_state"] == "Trusted"
    assert not (folder / "state").exists(), "no key is made for the installation"


@pytest.mark.parametrize("algorithm", KEYS)
async def test_a_key_file_signs(algorithm: Algorithm, authority: Authority, tmp_path: Path) -> None:
    await check_signing(write_settings(tmp_path, authority, algorithm), authority, tmp_path)


@pytest.mark.parametrize("function", ["sign_der", "sign_raw"])
async def test_a_callback_signs_in_either_form(function: str, authority: Authority, tmp_path: Path) -> None:
    await check_signing(write_callback(tmp_path, authority, function), authority, tmp_path)


async def test_a_callback_signs_several_files_at_the_same_time(authority: Authority, tmp_path: Path) -> None:
    plain = write_file(tmp_path, "jpeg").read_bytes()
    marker = Marker(MarksSettings(signing=write_callback(tmp_path, authority, "sign_der")), tmp_path)
    files = await asyncio.gather(*(marker.mark_bytes(plain, "jpeg", MADE) for _ in range(20)))
    stores = [read_store(data, "jpeg", authority.pem) for data in files]
    assert {store["validation_state"] for store in stores} == {"Trusted"}
    assert len({store["active_manifest"] for store in stores}) == 20


async def test_a_callback_that_failed_signs_the_next_time(authority: Authority, tmp_path: Path) -> None:
    plain = write_file(tmp_path, "jpeg").read_bytes()
    marker = Marker(MarksSettings(signing=write_callback(tmp_path, authority, "fail_once")), tmp_path)
    callbacks.failures.clear()
    with pytest.raises(ServiceLost):
        await marker.mark_bytes(plain, "jpeg", MADE)
    data = await marker.mark_bytes(plain, "jpeg", MADE)
    assert read_store(data, "jpeg", authority.pem)["validation_state"] == "Trusted"


@pytest.mark.parametrize(
    ("function", "reason"),
    [
        ("sign_with_another_key", "is not one of the key of"),
        ("sign_nonsense", "Error in signer callback"),
        ("fail", "the token did not sign"),
    ],
)
async def test_a_callback_that_fails_is_an_error_and_its_reason_is_logged(
    function: str, reason: str, authority: Authority, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = write_file(tmp_path, "jpeg")
    plain = path.read_bytes()
    marker = Marker(
        MarksSettings(signing=write_callback(tmp_path, authority, function), source_type=False, aigc=False), tmp_path
    )
    with pytest.raises(ServiceLost, match="the reason has been logged"):
        await marker.mark_file(path, "jpeg", MADE)
    assert reason in caplog.text
    assert path.read_bytes() == plain


@pytest.fixture
def kms() -> Iterator[str]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = ThreadedMotoServer("127.0.0.1", port, verbose=False)
    server.start()
    yield f"http://127.0.0.1:{port}"
    server.stop()


async def test_a_key_of_a_key_management_service_signs(
    kms: str, authority: Authority, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the example in `deploy/signing`."""
    environment = {
        "AWS_ENDPOINT_URL_KMS": kms,
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ACCESS_KEY_ID": "id",
        "AWS_SECRET_ACCESS_KEY": "key",
    }
    for variable, value in environment.items():
        monkeypatch.setenv(variable, value)
    client = boto3.client("kms")
    key = client.create_key(KeySpec="ECC_NIST_P256", KeyUsage="SIGN_VERIFY")["KeyMetadata"]["KeyId"]
    monkeypatch.setenv("SIGNING_KEY_ID", key)
    monkeypatch.syspath_prepend(str(EXAMPLES))
    public = load_der_public_key(client.get_public_key(KeyId=key)["PublicKey"])
    assert isinstance(public, ec.EllipticCurvePublicKey)
    certificate = tmp_path / "certificate.pem"
    certificate.write_bytes(authority.issue(public))
    settings = SigningSettings(certificate=certificate, callback="aws_kms:sign")
    await check_signing(settings, authority, tmp_path)


def test_what_is_configured_must_fit(authority: Authority, tmp_path: Path) -> None:
    good = write_settings(tmp_path, authority)
    other = tmp_path / "other.pem"

    def refuse(match: str, **changes: object) -> None:
        with pytest.raises(ConfigError, match=match):
            load_credential(good.model_copy(update=changes))

    refuse("certificate: .*missing.pem cannot be read", certificate=tmp_path / "missing.pem")
    refuse("is no PEM certificate", certificate=good.key)
    refuse("ps256 needs a certificate for a key of the kind RSA", algorithm="ps256")
    refuse("es384 needs a certificate for a key of the kind P-384", algorithm="es384")
    other.write_bytes(write_key(ec.generate_private_key(ec.SECP256R1())))
    refuse("is not the key of marks.signing.certificate", key=other)
    encryption = BestAvailableEncryption(b"password")
    other.write_bytes(KEYS["es256"].private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption))
    refuse("is no unencrypted PEM key", key=other)
    refuse("no_such_module:sign cannot be imported", key=None, callback="no_such_module:sign")
    refuse("cannot be imported", key=None, callback=f"{CALLBACKS}:nothing")
    refuse("is no function", key=None, callback=f"{CALLBACKS}:NO_FUNCTION")
    with pytest.raises(ConfigError, match="expired on"):
        load_credential(good, datetime.now(UTC) + timedelta(days=21))


def test_a_marker_with_a_bad_certificate_is_not_made(authority: Authority, tmp_path: Path) -> None:
    good = write_settings(tmp_path, authority)
    (tmp_path / "key.pem").unlink()
    with pytest.raises(ConfigError):
        Marker(MarksSettings(signing=good), tmp_path)
    Marker(MarksSettings(signing=good, c2pa=False), tmp_path)


def test_trust_anchors_are_certificates(authority: Authority, tmp_path: Path) -> None:
    path = tmp_path / "anchors.pem"
    path.write_text(f"comment\n{authority.pem}")
    assert load_trust_anchors(path) == authority.pem
    assert load_trust_anchors(None) is None
    path.write_text("no certificate")
    with pytest.raises(ConfigError, match="has no PEM certificates"):
        load_trust_anchors(path)


def test_numbers_of_a_signature_have_their_whole_size() -> None:
    der = bytes([0x30, 6, 2, 1, 1, 2, 1, 2])
    assert convert_to_raw(der, 32) == (1).to_bytes(32, "big") + (2).to_bytes(32, "big")
    with pytest.raises(ValueError, match=r"DER|ASN|pars"):
        convert_to_raw(b"nonsense", 32)
