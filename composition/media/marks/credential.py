"""The certificate and key that manifests are signed with, loaded from the configuration."""

import importlib
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeAlias, cast

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)

from composition.media.marks.settings import Algorithm, SigningSettings
from services.errors import ConfigError

SignatureFunction: TypeAlias = Callable[[bytes], bytes]
"""Takes data and returns its signature; of an elliptic curve as DER or as the two numbers one after the other."""
PublicKey: TypeAlias = ec.EllipticCurvePublicKey | rsa.RSAPublicKey | ed25519.Ed25519PublicKey

CURVES = {"es256": ec.SECP256R1, "es384": ec.SECP384R1}
HASHES: dict[str, type[hashes.SHA256] | type[hashes.SHA384]] = {"es256": hashes.SHA256, "es384": hashes.SHA384}
KEY_NAMES = {"es256": "P-256", "es384": "P-384", "ps256": "RSA", "ed25519": "Ed25519"}
MIN_RSA_BITS = 2048


@dataclass(frozen=True)
class Credential:
    """A certificate chain, and either its private key or a function that signs."""

    chain: bytes
    """Certificates in PEM, the signer's own first."""
    algorithm: Algorithm
    expires_at: datetime
    key: bytes | None = field(default=None, repr=False)
    """Private key as PKCS#8 in PEM."""
    callback: SignatureFunction | None = None


def load_credential(settings: SigningSettings, now: datetime | None = None) -> Credential:
    """Load what the configuration names, and check that it fits together. Blocks.

    Raises ConfigError: a file is missing or damaged, the certificate has expired, the key has another certificate or
    algorithm, or the callback cannot be imported.
    """
    chain = _read_file(settings.certificate, "marks.signing.certificate")
    try:
        certificates = x509.load_pem_x509_certificates(chain)
    except ValueError as error:
        raise ConfigError(
            f"marks.signing.certificate: {settings.certificate} is no PEM certificate: {error}"
        ) from error
    own = certificates[0]
    if own.not_valid_after_utc < (now or datetime.now(UTC)):
        raise ConfigError(
            f"marks.signing.certificate: {settings.certificate} expired on {own.not_valid_after_utc:%Y-%m-%d}"
        )
    public = _get_public_key(own, settings.algorithm)
    normal = b"".join(certificate.public_bytes(Encoding.PEM) for certificate in certificates)
    if settings.key is not None:
        key = _load_key(settings.key, public)
        return Credential(normal, settings.algorithm, own.not_valid_after_utc, key=key)
    callback = _import_function(settings.callback or "")
    return Credential(
        normal, settings.algorithm, own.not_valid_after_utc, callback=_check_signatures(callback, public, settings)
    )


def load_trust_anchors(path: Path | None) -> str | None:
    """Return the certificates of `marks.trust_anchors` in PEM. Raises ConfigError: the file has none."""
    if path is None:
        return None
    content = _read_file(path, "marks.trust_anchors")
    try:
        certificates = x509.load_pem_x509_certificates(content)
    except ValueError as error:
        raise ConfigError(f"marks.trust_anchors: {path} has no PEM certificates: {error}") from error
    return b"".join(certificate.public_bytes(Encoding.PEM) for certificate in certificates).decode()


def _read_file(path: Path, field: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{field}: {path} cannot be read: {error.strerror}") from error


def _get_public_key(certificate: x509.Certificate, algorithm: Algorithm) -> PublicKey:
    """Return the public key of a certificate. Raises ConfigError unless it is one of the algorithm."""
    try:
        key = certificate.public_key()
    except (ValueError, UnsupportedAlgorithm) as error:
        raise ConfigError(f"marks.signing.certificate: its key is not supported: {error}") from error
    match key:
        case ec.EllipticCurvePublicKey() if algorithm in CURVES and isinstance(key.curve, CURVES[algorithm]):
            return key
        case rsa.RSAPublicKey() if algorithm == "ps256" and key.key_size >= MIN_RSA_BITS:
            return key
        case ed25519.Ed25519PublicKey() if algorithm == "ed25519":
            return key
        case _:
            raise ConfigError(
                f"marks.signing.algorithm: {algorithm} needs a certificate for a key of the kind"
                f" {KEY_NAMES[algorithm]}, and {type(key).__name__} was found"
            )


def _load_key(path: Path, public: PublicKey) -> bytes:
    """Return a private key as PKCS#8. Raises ConfigError unless it is that of the certificate."""
    content = _read_file(path, "marks.signing.key")
    try:
        key = load_pem_private_key(content, None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:  # TypeError: it is encrypted
        raise ConfigError(f"marks.signing.key: {path} is no unencrypted PEM key: {error}") from error
    form = (Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    if key.public_key().public_bytes(*form) != public.public_bytes(*form):
        raise ConfigError(f"marks.signing.key: {path} is not the key of marks.signing.certificate")
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def _import_function(name: str) -> SignatureFunction:
    """Import `module:function`. Raises ConfigError."""
    module, _, function = name.partition(":")
    try:
        found: Any = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError) as error:
        raise ConfigError(f"marks.signing.callback: {name} cannot be imported: {error}") from error
    if not callable(found):
        raise ConfigError(f"marks.signing.callback: {name} is no function")
    return cast("SignatureFunction", found)


def _check_signatures(callback: SignatureFunction, public: PublicKey, settings: SigningSettings) -> SignatureFunction:
    """Return a function that signs with the callback, and raises ValueError unless the certificate's key signed."""

    def sign(data: bytes) -> bytes:
        signature = callback(data)
        if isinstance(public, ec.EllipticCurvePublicKey):
            signature = convert_to_raw(signature, (public.key_size + 7) // 8)
        if not _is_signed(public, signature, data, settings.algorithm):
            raise ValueError(f"the signature of {settings.callback} is not one of the key of {settings.certificate}")
        return signature

    return sign


def convert_to_raw(signature: bytes, size: int) -> bytes:
    """Return an ECDSA signature as two numbers of `size` bytes, as COSE has it. Raises ValueError."""
    if len(signature) == 2 * size:
        return signature
    r, s = decode_dss_signature(signature)
    return r.to_bytes(size, "big") + s.to_bytes(size, "big")


def _is_signed(public: PublicKey, signature: bytes, data: bytes, algorithm: Algorithm) -> bool:
    try:
        match public:
            case ec.EllipticCurvePublicKey():
                half = len(signature) // 2
                r, s = (int.from_bytes(part, "big") for part in (signature[:half], signature[half:]))
                public.verify(encode_dss_signature(r, s), data, ec.ECDSA(HASHES[algorithm]()))
            case rsa.RSAPublicKey():
                pss = padding.PSS(padding.MGF1(hashes.SHA256()), padding.PSS.DIGEST_LENGTH)
                public.verify(signature, data, pss, hashes.SHA256())
            case ed25519.Ed25519PublicKey():
                public.verify(signature, data)
    except InvalidSignature:
        return False
    return True
