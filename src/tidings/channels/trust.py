"""Whom we trust over TLS: what the system trusts, and the certificates of a file that the settings name."""

from __future__ import annotations

from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding


def certificates(path: Path) -> list[bytes]:
    """The certificates of a PEM file, each as DER.

    Raises:
        ValueError: the file cannot be read, or has no certificate in it; the text says which.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from error
    try:
        found = x509.load_pem_x509_certificates(content)
    except ValueError as error:
        raise ValueError(f"{path} has no certificates in PEM form") from error
    return [one.public_bytes(Encoding.DER) for one in found]
