"""Private keys: ECDSA on P-256, which every TLS library takes; and ids, which are hashes of public keys."""

from __future__ import annotations

import hashlib
import os
import secrets
from pathlib import Path
from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_der_public_key,
    load_pem_private_key,
)

from lepton_p2p.errors import ConfigError

PrivateKey = ec.EllipticCurvePrivateKey
PublicKey = ec.EllipticCurvePublicKey

MAX_FILE: Final = 64 * 1024
"""Bytes that are read of any file with keys or certificates."""
_OTHERS: Final = 0o077


def new_key() -> PrivateKey:
    """A fresh private key."""
    return ec.generate_private_key(ec.SECP256R1())


def check_public_key(key: PublicKeyTypes) -> PublicKey:
    """``key`` if it is one of P-256; ``ValueError`` otherwise."""
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise ValueError("keys are ECDSA keys on the curve P-256")
    return key


def public_bytes(key: PublicKey) -> bytes:
    """``key`` as SubjectPublicKeyInfo in DER: 91 bytes, one encoding for each key."""
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def read_public(der: bytes) -> PublicKey:
    """What :func:`public_bytes` wrote; ``ValueError`` for anything else."""
    try:
        key = check_public_key(load_der_public_key(der))
    except Exception:
        raise ValueError("not a public key on the curve P-256") from None
    if public_bytes(key) != der:
        raise ValueError("a public key is encoded in another way than this")
    return key


def id_of(key: PublicKey) -> str:
    """The first 128 bits of the SHA-256 of the public key: 32 hex digits that only the owner of the key can prove."""
    return hashlib.sha256(public_bytes(key)).hexdigest()[:32]


def sign(key: PrivateKey, data: bytes) -> bytes:
    """An ECDSA signature with SHA-256, in DER: at most 72 bytes."""
    return key.sign(data, ec.ECDSA(hashes.SHA256()))


def signed_by(key: PublicKey, signature: bytes, data: bytes) -> bool:
    """Whether ``signature`` over ``data`` was made with the private half of ``key``."""
    try:
        key.verify(signature, data, ec.ECDSA(hashes.SHA256()))
    except InvalidSignature:
        return False
    return True


def private_pem(key: PrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def load_key(path: Path) -> PrivateKey:
    """The private key in ``path``, which nobody but its owner may read; :class:`ConfigError` otherwise."""
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            data = file.read(MAX_FILE)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
    if mode & _OTHERS:
        raise ConfigError(f"{path}: others may read this private key: chmod 600 {path}")
    try:
        key = load_pem_private_key(data, None)
    except (ValueError, TypeError):
        key = None
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise ConfigError(f"{path}: is not a private key of a swarm")
    return key


def write_secret(path: Path, data: bytes) -> None:
    """Create ``path`` whole, with mode 0600 from its first moment; ``FileExistsError`` if there is one already."""
    _write(path, data, 0o600, replace=False)


def write_public(path: Path, data: bytes) -> None:
    """Write ``path`` in one step: readers see the old bytes or the new ones, also after a crash."""
    _write(path, data, 0o644, replace=True)


def _write(path: Path, data: bytes, mode: int, *, replace: bool) -> None:
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.new")
    try:
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
        try:
            with os.fdopen(fd, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            if replace:
                temporary.replace(path)
            else:
                os.link(temporary, path)  # unlike a rename it never overwrites
        finally:
            temporary.unlink(missing_ok=True)
    except FileExistsError:
        raise
    except OSError as error:
        raise ConfigError(f"{path}: cannot be written: {error.strerror}") from None
