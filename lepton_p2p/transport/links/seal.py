"""Sealing and opening: what the bytes of a link look like to everybody who does not have its keys.

A frame goes out as up to three *pieces* (its header, what follows the header, its payload), each sealed on its own with
AES-256-GCM (NIST SP 800-38D) and 16 bytes longer for its tag: so the header is authentic before anything is done
because of it, and a payload can be held back.  Each direction of a link has a chain of keys and counts its pieces; both
ends count alike, so that neither nonces nor key numbers travel.  What was changed, left out, repeated, sent back, taken
from another link or put in another order does not open, and a link on which one piece did not open is over.

The nonce (96 bits) is the number of the key in its chain (32 bits) and that of the piece under it (64 bits): the
deterministic construction of SP 800-38D, 8.2.1.  It is never used twice, for a number goes up with every piece.

After 2^24 pieces or 32 GiB, whichever comes first, the next key of the chain is made and the last one dropped (HKDF,
RFC 5869): 2^31 blocks under one key leave an advantage below 2^-66 to an observer (RFC 8446, 5.5, allows 2^-57), and
keys that leak later do not open what went before.
"""

from __future__ import annotations

import struct

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

from lepton_p2p.transport.links.frames import HEADER_BYTES, Bytes, FrameError

KEY_BYTES = 32
TAG_BYTES = 16
"""What sealing adds to a piece."""
PIECES_PER_KEY = 1 << 24
BYTES_PER_KEY = 1 << 35

SEALED_HEADER_BYTES = HEADER_BYTES + TAG_BYTES
_NONCE = struct.Struct("!IQ")
_CHAIN, _KEY = b"lepton link chain", b"lepton link key"

GREETING, HEADER = b"lepton greeting", b"lepton header"
"""What a piece is: said with ``about``, so that none can pass for one of another kind."""
_EXTRA, _PAYLOAD = b"lepton extra", b"lepton payload"


def extra_of(header: Bytes) -> bytes:
    """What the piece that follows ``header`` (as it was before it was sealed) is about."""
    return _EXTRA + header


def payload_of(header: Bytes) -> bytes:
    """What the payload of the frame with ``header`` is about."""
    return _PAYLOAD + header


class SealError(FrameError):
    """A piece that does not open: not from the other end of this link, or not the next one."""


class _Chain:
    """The keys of one direction.  Takes over ``secret`` (32 bytes) and wipes it when it has made the next one of it."""

    def __init__(self, secret: bytearray, pieces: int, volume: int) -> None:
        if len(secret) != KEY_BYTES:
            raise ValueError(f"a link secret has {KEY_BYTES} bytes, not {len(secret)}")
        self._secret = secret
        self._pieces, self._volume = pieces, volume
        self._number = 0
        self._count = self._bytes = 0
        self._cipher: AESGCM | None = self._make()

    def next(self, nbytes: int) -> tuple[AESGCM, bytes]:
        """Cipher and nonce for the next piece, of ``nbytes`` before it is sealed."""
        if self._cipher is None:
            raise SealError("this end of the link is closed")
        if self._count == self._pieces or (self._count and self._bytes + nbytes > self._volume):
            _derive(self._secret, _CHAIN, into=self._secret)
            self._number += 1
            self._count = self._bytes = 0
            self._cipher = self._make()
        nonce = _NONCE.pack(self._number, self._count)
        self._count += 1
        self._bytes += nbytes
        return self._cipher, nonce

    def wipe(self) -> None:
        """Forget the keys: nothing is sealed or opened any more."""
        self._secret[:] = bytes(len(self._secret))
        self._cipher = None

    def _make(self) -> AESGCM:
        key = bytearray(KEY_BYTES)
        _derive(self._secret, _KEY, into=key)
        cipher = AESGCM(key)
        key[:] = bytes(KEY_BYTES)
        return cipher


class Sealer:
    """The sending end of one direction.  ``about`` is authenticated with a piece and not sent: both ends know it.

    secret: 32 bytes, taken over.  pieces, volume: how many pieces and bytes one key seals; both ends must agree.
    """

    def __init__(self, secret: bytearray, *, pieces: int = PIECES_PER_KEY, volume: int = BYTES_PER_KEY) -> None:
        self._chain = _Chain(secret, pieces, volume)

    def seal(self, piece: Bytes, about: bytes) -> bytes:
        """``piece`` sealed: 16 bytes longer."""
        cipher, nonce = self._chain.next(len(piece))
        return cipher.encrypt(nonce, piece, about)

    def seal_into(self, piece: memoryview, about: bytes, into: memoryview) -> None:
        """Write ``piece`` sealed to ``into``, which is exactly 16 bytes longer."""
        cipher, nonce = self._chain.next(piece.nbytes)
        cipher.encrypt_into(nonce, piece, about, into)

    def wipe(self) -> None:
        """Forget the keys; idempotent."""
        self._chain.wipe()


class Opener:
    """The receiving end of one direction; the arguments are those of the :class:`Sealer` at the other end.

    After the first :class:`SealError` it opens nothing any more: who guesses has one try for each link.
    """

    def __init__(self, secret: bytearray, *, pieces: int = PIECES_PER_KEY, volume: int = BYTES_PER_KEY) -> None:
        self._chain = _Chain(secret, pieces, volume)

    def open(self, sealed: Bytes, about: bytes) -> bytes:
        """What was sealed; :class:`SealError` if it is not the next piece of this direction."""
        cipher, nonce = self._chain.next(len(sealed) - TAG_BYTES)
        try:
            return cipher.decrypt(nonce, sealed, about)
        except InvalidTag:
            raise self._refused() from None

    def open_into(self, sealed: memoryview, about: bytes, into: memoryview) -> None:
        """Write what was sealed to ``into``, which is exactly 16 bytes shorter and may be the front of ``sealed``.

        :class:`SealError` as for :meth:`open`; ``into`` is then zeros.
        """
        cipher, nonce = self._chain.next(into.nbytes)
        try:
            cipher.decrypt_into(nonce, sealed, about, into)
        except InvalidTag:
            # The library writes before it has seen the tag: what nobody vouches for must not stay.
            into[:] = bytes(into.nbytes)
            raise self._refused() from None

    def wipe(self) -> None:
        """Forget the keys; idempotent."""
        self._chain.wipe()

    def _refused(self) -> SealError:
        self.wipe()
        return SealError("sealed bytes that do not open: changed on the way, or not the next ones of this link")


def _derive(secret: bytearray, label: bytes, *, into: bytearray) -> None:
    """HKDF-Expand (RFC 5869) of ``secret``; ``into`` may be ``secret`` itself."""
    HKDFExpand(SHA256(), KEY_BYTES, label).derive_into(secret, into)
