"""Signs manifests with a key of a PKCS#11 token: `marks.signing.callback: pkcs11_token:sign`.

It needs the package PyKCS11. The environment names the token's library in `PKCS11_LIBRARY`, the token's label in
`PKCS11_TOKEN`, its PIN in `PKCS11_PIN` and the key's label in `PKCS11_KEY`. The key is on the curve P-256, and its
certificate is in the file `marks.signing.certificate`.
"""

import hashlib
import os
import threading

import PyKCS11

lock = threading.Lock()
library = PyKCS11.PyKCS11Lib()
library.load(os.environ["PKCS11_LIBRARY"])


def open_session() -> PyKCS11.Session:
    """Log in to the token."""
    for slot in library.getSlotList(tokenPresent=True):
        if library.getTokenInfo(slot).label.strip() == os.environ["PKCS11_TOKEN"]:
            session = library.openSession(slot)
            session.login(os.environ["PKCS11_PIN"])
            return session
    raise LookupError(f"there is no token {os.environ['PKCS11_TOKEN']!r}")


session = open_session()
(key,) = session.findObjects(
    [(PyKCS11.CKA_CLASS, PyKCS11.CKO_PRIVATE_KEY), (PyKCS11.CKA_LABEL, os.environ["PKCS11_KEY"])]
)


def sign(data: bytes) -> bytes:
    """Return the signature of `data`, the two numbers one after the other. Files are signed in several threads."""
    with lock:
        return bytes(session.sign(key, hashlib.sha256(data).digest(), PyKCS11.Mechanism(PyKCS11.CKM_ECDSA)))
