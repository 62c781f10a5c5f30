"""Functions that sign, as an operator may configure them."""

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

KEY = ec.generate_private_key(ec.SECP256R1())
NO_FUNCTION = 3


def sign_der(data: bytes) -> bytes:
    return KEY.sign(data, ec.ECDSA(hashes.SHA256()))


def sign_raw(data: bytes) -> bytes:
    r, s = decode_dss_signature(sign_der(data))
    return r.to_bytes(32, "big") + s.to_bytes(32, "big")


def sign_with_another_key(data: bytes) -> bytes:
    return ec.generate_private_key(ec.SECP256R1()).sign(data, ec.ECDSA(hashes.SHA256()))


def sign_nonsense(data: bytes) -> bytes:
    return data[:8]


def fail(data: bytes) -> bytes:
    raise ConnectionError(f"the token did not sign {len(data)} bytes")


def fail_once(data: bytes) -> bytes:
    """Fail the first time."""
    if not failures:
        failures.append("first")
        fail(data)
    return sign_der(data)


failures: list[str] = []
