"""How memory gets from one process to another: a Unix socket on the side, for descriptors only.

The acceptor of a link names its door and a secret in the WELCOME; the connector hands in memory there, if the
door is in reach, which it is exactly if both are on one machine (in one network namespace).  A datagram is in the
door's queue when sending it has returned, before anything that the connector then says on the link: nobody waits.
"""

from __future__ import annotations

import array
import contextlib
import os
import secrets
import socket
from collections import deque

_PREFIX = b"\0lepton-door-"  # abstract: no file to be left behind (unix(7))
_NAME_BYTES = 16
SECRET_BYTES = 16
OFFER_BYTES = _NAME_BYTES + SECRET_BYTES
_READ_AT_ONCE = 4096
_WAITING = 2
"""Descriptors that may wait for one offer to be collected."""


def hand_in(offer: bytes, fd: int) -> bool:
    """Give ``fd`` to the door of the ``offer``; False if that is not in reach or takes nothing now."""
    if len(offer) != OFFER_BYTES:
        return False
    # Only doors of this protocol can be named: a remote must not make this process talk to other sockets.
    address = _PREFIX + offer[:_NAME_BYTES].hex().encode()
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as sock:
            rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [fd]))
            sock.sendmsg([offer[_NAME_BYTES:]], [rights], 0, address)
    except (OSError, AttributeError):
        return False
    return True


class Door:
    """The acceptor's end; ``OSError`` where the system has no such sockets.

    Only what comes with a secret that was offered is kept, a little of it; everything else is closed at once.
    """

    def __init__(self) -> None:
        self._name = secrets.token_bytes(_NAME_BYTES)
        self._offered: dict[bytes, deque[int]] = {}
        kind = socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
        self._socket = socket.socket(socket.AF_UNIX, kind)
        try:
            self._socket.bind(_PREFIX + self._name.hex().encode())
        except BaseException:
            self._socket.close()
            raise

    def offer(self) -> bytes:
        """What to tell a connector, who may hand in at it until :meth:`withdraw` of the same."""
        secret = secrets.token_bytes(SECRET_BYTES)
        self._offered[secret] = deque()
        return self._name + secret

    def collect(self, offer: bytes) -> int | None:
        """The oldest descriptor that was handed in at ``offer``, now the caller's; None if there is none."""
        with contextlib.suppress(BlockingIOError):
            # Others can send here without end; the kernel's queue is shorter than this (net.unix.max_dgram_qlen).
            for _ in range(_READ_AT_ONCE):
                self._read()
        waiting = self._offered.get(offer[_NAME_BYTES:])
        return waiting.popleft() if waiting else None

    def withdraw(self, offer: bytes) -> None:
        """The offer is not good any more.  Idempotent."""
        for fd in self._offered.pop(offer[_NAME_BYTES:], ()):
            os.close(fd)

    def close(self) -> None:
        """Close the socket and what was handed in and not collected."""
        self._socket.close()
        for secret in tuple(self._offered):
            self.withdraw(self._name + secret)

    def _read(self) -> None:
        # Not socket.recv_fds: it forgets its flags (CPython 3.11).
        room = socket.CMSG_SPACE(array.array("i").itemsize)
        secret, notes, _, _ = self._socket.recvmsg(SECRET_BYTES + 1, room, socket.MSG_CMSG_CLOEXEC)
        fds = array.array("i")
        for level, kind, data in notes:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                fds.frombytes(data[: len(data) - len(data) % fds.itemsize])
        waiting = self._offered.get(secret)
        if len(fds) == 1 and waiting is not None and len(waiting) < _WAITING:
            waiting.append(fds[0])
        else:
            for fd in fds:
                os.close(fd)
