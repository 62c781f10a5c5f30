"""A server whose files could not be marked does not start, and says why."""

from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509 import ObjectIdentifier
from cryptography.x509.oid import ExtendedKeyUsageOID

from composition import app
from composition.configuration.settings import FrontSettings, JobsSettings
from composition.media.marks.marker import Marker
from composition.media.marks.settings import MARKS_OFF, MarksSettings, SigningSettings, VisibleLabel
from composition.media.marks.trial import check_marks
from services.errors import ConfigError
from tests.composition.media.marks.authority import Authority, write_key

DOCUMENT_SIGNING = ObjectIdentifier("1.3.6.1.5.5.7.3.36")


def sign_nothing(data: bytes) -> bytes:
    """The callback of a key service that is away."""
    raise ConnectionError(f"no connection for {len(data)} bytes")


def write_chain(folder: Path) -> SigningSettings:
    """Write the certificate and the key of an installation as files."""
    check_marks(MarksSettings(), folder)
    signer = (folder / "marks" / "signer.pem").read_text()
    key, _, certificates = signer.partition("-----BEGIN CERTIFICATE-----")
    (folder / "chain.pem").write_text(f"-----BEGIN CERTIFICATE-----{certificates}")
    (folder / "key.pem").write_text(key)
    return SigningSettings(certificate=folder / "chain.pem", key=folder / "key.pem")


def test_the_key_of_the_installation_is_made_at_the_start(tmp_path: Path) -> None:
    check_marks(MARKS_OFF, tmp_path)
    assert list(tmp_path.iterdir()) == []
    check_marks(MarksSettings(), tmp_path)
    made = (tmp_path / "marks" / "signer.pem").read_bytes()
    check_marks(MarksSettings(), tmp_path)
    assert (tmp_path / "marks" / "signer.pem").read_bytes() == made


def test_a_key_that_cannot_sign_is_found_at_the_start(tmp_path: Path) -> None:
    signing = write_chain(tmp_path)
    check_marks(MarksSettings(signing=signing), tmp_path)
    missing = signing.model_copy(update={"certificate": tmp_path / "none.pem"})
    away = SigningSettings(certificate=signing.certificate, callback=f"{__name__}:sign_nothing")
    (tmp_path / "other").mkdir()
    other = write_chain(tmp_path / "other")
    foreign = signing.model_copy(update={"key": other.key})
    for broken in (missing, away, foreign):
        with pytest.raises(ConfigError, match="marks"):
            check_marks(MarksSettings(signing=broken), tmp_path)


def test_a_state_folder_that_cannot_be_written_is_found_at_the_start(tmp_path: Path) -> None:
    (tmp_path / "marks").write_bytes(b"")
    with pytest.raises(ConfigError, match="marks"):
        check_marks(MarksSettings(), tmp_path)


def test_applications_that_write_files_are_not_built_without_marks(tmp_path: Path) -> None:
    marks = MarksSettings(visible=VisibleLabel(text="生成"))
    with pytest.raises(ConfigError, match=r"marks\.visible\.text"):
        app.jobs(JobsSettings(home=tmp_path, marks=marks))
    with pytest.raises(ConfigError, match=r"marks\.visible\.text"):
        app.front(FrontSettings(home=tmp_path, auth="none", marks=marks))
    assert Marker(marks, tmp_path).settings.visible is not None


@pytest.mark.parametrize(
    ("purpose", "reason"),
    [
        (ExtendedKeyUsageOID.SERVER_AUTH, "could not be signed: .*the certificate is invalid"),
        (DOCUMENT_SIGNING, "readers will not accept the manifests: .*signingCredential.invalid"),
    ],
)
def test_a_certificate_for_another_purpose_is_found_at_the_start(
    purpose: ObjectIdentifier, reason: str, tmp_path: Path
) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    signing = SigningSettings(certificate=tmp_path / "certificate.pem", key=tmp_path / "key.pem")
    signing.certificate.write_bytes(Authority().issue(key.public_key(), purpose))
    (tmp_path / "key.pem").write_bytes(write_key(key))
    with pytest.raises(ConfigError, match=reason):
        check_marks(MarksSettings(signing=signing), tmp_path)
