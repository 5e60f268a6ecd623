"""Reads the certificates that are trusted over TLS beside the system's: a file that the settings name."""

from __future__ import annotations

from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding


def certificates(path: Path) -> list[bytes]:
    """The certificates in a PEM file, each as DER.

    Raises:
        ValueError: the file cannot be read, or has no certificate in it; the text says which.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from error
    try:
        loaded = x509.load_pem_x509_certificates(content)
    except ValueError as error:
        raise ValueError(f"{path} has no certificates in PEM form") from error
    return [certificate.public_bytes(Encoding.DER) for certificate in loaded]
