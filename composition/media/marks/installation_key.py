"""The certificate of an installation that is configured without one: made once, and signed by nobody else.

The folder `marks` of the state folder holds `root.pem` (the key and certificate that issue), `signer.pem` (the key and
certificate that sign, and the root's certificate) and `root-certificate.pem`, which others may trust. Certificates
follow the profile of C2PA: P-256, digitalSignature, emailProtection, no CA.
"""

import os
import tempfile
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePrivateKey, generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from composition.media.marks.credential import Credential
from services.errors import ConfigError, StorageFailed

FOLDER = "marks"
ORGANIZATION = "Self-made certificate, untrusted"
"""Organization of both certificates. Readers show it as the issuer."""
YEAR = timedelta(days=365)
ROOT_VALIDITY = 30 * YEAR
SIGNER_VALIDITY = 10 * YEAR
"""Without a time stamp, a reader accepts a file as long as the certificate is valid."""
RENEWAL = 5 * YEAR
"""A certificate that is valid for less time than this is replaced. New files stay valid for at least as long."""
CLOCK_SKEW = timedelta(days=1)
"""How far the clock of a reader may be behind."""


def load_installation_key(state: Path, now: datetime | None = None) -> Credential:
    """Return the installation's certificate and key. Makes them if they are missing, and renews them.

    Processes that do this at the same time get the same key. Blocks.

    Args:
        state: the state folder.
        now: the current time, with a time zone.

    Raises:
        StorageFailed: the files cannot be read or written.
        ConfigError: a file is damaged.
    """
    now = now or datetime.now(UTC)
    folder = state / FOLDER
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder.chmod(0o700)
        root = _load_or_make(folder / "root.pem", lambda: _make_root(now))
        if _is_ending(root, now):
            root = _replace(folder / "root.pem", _make_root(now))
        signer = _load_or_make(folder / "signer.pem", lambda: _make_signer(root, now))
        if _is_ending(signer, now):
            signer = _replace(folder / "signer.pem", _make_signer(root, now))
        anchor = folder / "root-certificate.pem"
        issuer = _list_certificates(signer)[-1].public_bytes(Encoding.PEM)
        if not anchor.exists() or anchor.read_bytes() != issuer:
            _replace(anchor, issuer)
    except OSError as error:
        raise StorageFailed(f"the signing key in {folder} cannot be read or made: {error.strerror}") from error
    except ValueError as error:
        raise ConfigError(
            f"a signing key in {folder} is damaged; remove the folder, and new keys are made: {error}"
        ) from error
    certificates = _list_certificates(signer)
    chain = b"".join(certificate.public_bytes(Encoding.PEM) for certificate in certificates)
    return Credential(chain, "es256", key=_load_key(signer), expires_at=certificates[0].not_valid_after_utc)


def needs_renewal(credential: Credential, now: datetime | None = None) -> bool:
    """Return whether `load_installation_key` would replace this certificate."""
    return credential.expires_at - (now or datetime.now(UTC)) < RENEWAL


def _load_or_make(path: Path, make: Callable[[], bytes]) -> bytes:
    """Return the content of a file. If it is missing, make it; of several processes, the first one makes it."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        draft = _write_draft(path, make())
        try:
            os.link(draft, path)
        except FileExistsError:
            pass  # another process was faster
        finally:
            draft.unlink()
        return path.read_bytes()


def _replace(path: Path, content: bytes) -> bytes:
    _write_draft(path, content).replace(path)
    return content


def _write_draft(path: Path, content: bytes) -> Path:
    """Write a file next to `path` that only its owner can read, and return its path."""
    descriptor, draft = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(descriptor)
    return Path(draft)


def _is_ending(content: bytes, now: datetime) -> bool:
    """Return whether the first certificate of a file must be replaced."""
    certificate = _list_certificates(content)[0]
    is_root = certificate.subject == certificate.issuer
    return certificate.not_valid_after_utc - now < (SIGNER_VALIDITY if is_root else RENEWAL)


def _list_certificates(content: bytes) -> list[x509.Certificate]:
    return x509.load_pem_x509_certificates(content)


def _load_key(content: bytes) -> bytes:
    """Return the key of a file as PKCS#8 in PEM."""
    key = load_pem_private_key(content, None)
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def _make_root(now: datetime) -> bytes:
    """Return a new key and its certificate, in PEM."""
    key = generate_private_key(SECP256R1())
    number = x509.random_serial_number()
    name = _make_name(f"reelgraph installation {number & 0xFFFFFFFF:08x} root (self-made, untrusted)")
    builder = (
        _begin_certificate(name, name, number, now, ROOT_VALIDITY)
        .public_key(key.public_key())
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_make_usage(is_root=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )
    return _write_key(key) + builder.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM)


def _make_signer(root: bytes, now: datetime) -> bytes:
    """Return a new key, its certificate and the root's, in PEM."""
    issuer = _list_certificates(root)[0]
    issuer_key = load_pem_private_key(root, None)
    if not isinstance(issuer_key, EllipticCurvePrivateKey):
        raise ValueError("root.pem has no key on an elliptic curve")  # noqa: TRY004 - the file is damaged
    key = generate_private_key(SECP256R1())
    number = x509.random_serial_number()
    name = _make_name(f"reelgraph installation {issuer.serial_number & 0xFFFFFFFF:08x} (self-made, untrusted)")
    builder = (
        _begin_certificate(name, issuer.subject, number, now, SIGNER_VALIDITY)
        .public_key(key.public_key())
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_make_usage(is_root=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.EMAIL_PROTECTION]), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()), critical=False)
    )
    certificate = builder.sign(issuer_key, hashes.SHA256())
    return _write_key(key) + certificate.public_bytes(Encoding.PEM) + issuer.public_bytes(Encoding.PEM)


def _make_name(common_name: str) -> x509.Name:
    return x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, ORGANIZATION),
            x509.NameAttribute(NameOID.COMMON_NAME, common_name),
        ]
    )


def _begin_certificate(
    subject: x509.Name, issuer: x509.Name, number: int, now: datetime, validity: timedelta
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .serial_number(number)
        .not_valid_before(now - CLOCK_SKEW)
        .not_valid_after(now + validity)
    )


def _make_usage(*, is_root: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not is_root,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=is_root,
        crl_sign=is_root,
        encipher_only=False,
        decipher_only=False,
    )


def _write_key(key: EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
