"""The answer to a greeting."""

from __future__ import annotations

import asyncio

from lepton_p2p.errors import SwarmUnreachable
from lepton_p2p.transport.links.frames import Header, Kind
from lepton_p2p.transport.links.link import Link, Unexpected
from lepton_p2p.transport.links.protocol import Verdict


class Welcome:
    """The connector's handler until the acceptor has said WELCOME."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self.offer = b""
        self.came: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def admit(self, header: Header, extra: bytes) -> Verdict:
        if header.kind is Kind.WELCOME and not header.payload:
            self._link.handler = Unexpected(self._link)
            self.offer = extra
            if not self.came.done():
                self.came.set_result(None)
        else:
            self._link.abort(f"expected WELCOME, got {header.kind.name}")
        return Verdict.DRAIN

    def received(self, header: Header) -> None:  # pragma: no cover - admit never gives memory
        raise AssertionError("unreachable")

    corrupt = received

    def lost(self, reason: str) -> None:
        if not self.came.done():
            self.came.set_exception(SwarmUnreachable(f"the link was refused: {reason}"))
            self.came.exception()  # counts as looked at: nobody awaits it if connecting itself failed
