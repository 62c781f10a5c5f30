"""Signs manifests with a key of AWS KMS: `marks.signing.callback: aws_kms:sign`.

The environment names the key in `SIGNING_KEY_ID`, and what else boto3 needs. The key is of the kind ECC_NIST_P256, for
SIGN_VERIFY, and its certificate is in the file `marks.signing.certificate`.
"""

import hashlib
import os

import boto3

MAX_MESSAGE_BYTES = 4096
"""Size of a message up to which KMS computes the digest itself."""

client = boto3.client("kms")


def sign(data: bytes) -> bytes:
    """Return the signature of `data`, in DER."""
    is_short = len(data) <= MAX_MESSAGE_BYTES
    answer = client.sign(
        KeyId=os.environ["SIGNING_KEY_ID"],
        Message=data if is_short else hashlib.sha256(data).digest(),
        MessageType="RAW" if is_short else "DIGEST",
        SigningAlgorithm="ECDSA_SHA_256",
    )
    return answer["Signature"]
