"""One peer in a process of its own, told what to do by lines of JSON on a socket.

Every request ``{"id", "do", ...}`` is answered by ``{"id", ...}``, in the order in which they are done, so that a
round may be pending while other requests are answered.  Without an id comes what happens in a ``loop``.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import gc
import json
import os
import signal
import socket
import time
from collections.abc import Iterator
from dataclasses import fields, replace
from typing import Any

import inputs
import psutil
from faults import Fault, Faults
from lies import lies_about
from network_namespaces import enter

from lepton_p2p.collectives import packing
from lepton_p2p.collectives.outcome import result_digest
from lepton_p2p.errors import LeptonError
from lepton_p2p.logging import configure_logging
from lepton_p2p.peer import Peer
from lepton_p2p.rounds.result import RoundResult
from lepton_p2p.transport.links import LinkHub, Ticket

Reply = dict[str, Any]


class Worker:
    """The requests that a worker understands are its ``do_`` methods."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._peer: Peer | None = None
        self._faults: Faults | None = None
        self._stopping = asyncio.Event()
        self._go = asyncio.Event()
        self._last: int | None = None

    async def serve(self) -> None:
        """Until the other end hangs up, or SIGTERM comes: then the peer leaves in good order."""
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, self._stopping.set)
        reading = asyncio.create_task(self._read())
        stopping = asyncio.create_task(self._stopping.wait())
        await asyncio.wait((reading, stopping), return_when=asyncio.FIRST_COMPLETED)
        if self._peer is not None:
            await self._peer.leave()
        for task in (reading, stopping, *self._tasks.values()):
            task.cancel()
        await asyncio.gather(reading, stopping, *self._tasks.values(), return_exceptions=True)
        self._writer.close()

    async def _read(self) -> None:
        while line := await self._reader.readline():
            request = json.loads(line)
            number = request.pop("id")
            task = asyncio.create_task(self._answer(number, request))
            self._tasks[number] = task
            task.add_done_callback(lambda _, number=number: self._tasks.pop(number, None))

    async def _answer(self, number: int, request: dict[str, Any]) -> None:
        method = getattr(self, f"do_{request.pop('do')}")
        try:
            reply = await method(**request)
        except LeptonError as error:
            reply = {"error": type(error).__name__, "message": str(error)}
        except asyncio.CancelledError:
            self._say({"id": number, "error": "Cancelled", "message": ""})
            raise
        except Exception as error:
            # Not an error of the package's own: a bug in it or here, which the test must see.
            reply = {"error": "Bug", "message": repr(error)}
        self._say({"id": number, **(reply or {})})

    def _say(self, reply: Reply) -> None:
        self._writer.write(json.dumps(reply).encode() + b"\n")

    @property
    def _running(self) -> Peer:
        assert self._peer is not None, "the peer was not started"
        return self._peer

    async def do_start(self, *, sealed: bool = False, told_port: int = 0, namespace: str = "", **options: Any) -> Reply:
        """sealed: links are, without credentials.  told_port: what tickets name instead of the own data port.
        namespace: of the network in which it lives; no other thread runs yet.
        """
        if namespace:
            enter(namespace)
        peer = Peer(**{"preset": "local", **options})
        peer._options = replace(peer._options, sealed=sealed)
        if told_port:
            _send_elsewhere(told_port)
        await peer.__aenter__()
        self._peer = peer
        assert peer._node is not None
        self._faults = Faults(peer._node)
        return {"peer": peer.id, "address": peer.address, "link_port": peer._node.hub.port}

    async def do_wait_for_members(self, count: int) -> None:
        """Exactly ``count``: nobody dead is still in the epoch, nobody new is missing."""
        assert self._running._node is not None
        rounds = self._running._node.rounds
        await rounds.wait_for_epoch(lambda epoch: len(epoch.members) == count)

    async def do_arm(self, **fault: Any) -> None:
        assert self._faults is not None
        self._faults.arm(Fault(**fault))

    async def do_all_reduce(
        self,
        seed: int,
        sizes: list[int],
        weight: int = 1,
        bad: float | None = None,
        state: int = 0,
        aggregation: str = "mean",
        lies: bool = False,
    ) -> Reply:
        """The mean of what ``inputs`` makes of the seed, or what stands in its place.

        ``bad`` replaces the first value of the first tensor; one that ``lies`` says that it is finite.  ``state``:
        digest of what the input is made from, as training passes it.
        """
        values = inputs.tensors(seed, sizes)
        if bad is not None:
            values[0][0] = bad
        before = inputs.digest(values)
        try:
            with self._made_from(state), _whatever_it_is() if lies else contextlib.nullcontext():
                result = await self._running.all_reduce(values, weight=weight, aggregation=aggregation)
        except LeptonError as error:
            unchanged = inputs.digest(values) == before
            return {"error": type(error).__name__, "message": str(error), "unchanged": unchanged}
        return {**_as_reply(result), "values": inputs.digest(values), "at": time.monotonic()}

    @contextlib.contextmanager
    def _made_from(self, state: int) -> Iterator[None]:
        assert self._running._node is not None
        rounds = self._running._node.rounds
        original = rounds.run
        rounds.run = functools.partial(original, state=state)  # type: ignore[method-assign]
        try:
            yield
        finally:
            rounds.run = original  # type: ignore[method-assign]

    async def do_loop(self, seed: int, sizes: list[int]) -> None:
        """One round after the other, each told as it happens, until ``release`` says when to end; or to an error."""
        self._last = None
        self._go.set()
        while True:
            await self._go.wait()
            reply = await self.do_all_reduce(seed, sizes)
            self._say(reply)
            if "error" in reply or (self._last is not None and reply["round"] >= self._last):
                return

    async def do_hold(self) -> Reply:
        """Begin no further round in the loop; says which was the last."""
        self._go.clear()
        assert self._running._node is not None
        return {"round": self._running._node.rounds.completed}

    async def do_release(self, last: int) -> None:
        """Go on until round ``last``."""
        self._last = last
        self._go.set()

    async def do_cancel(self, request: int) -> None:
        task = self._tasks.get(request)
        if task is not None:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    async def do_members(self) -> Reply:
        return {"members": [member.peer.id for member in self._running.members()]}

    async def do_kept(self) -> Reply:
        """Whether the result that is kept for others still is what was agreed, and whether it lies on a board."""
        assert self._running._node is not None
        rounds = self._running._node.rounds
        kept = rounds.kept(rounds.completed)
        assert kept is not None
        return {"intact": (result_digest(kept.buffer, kept.layout) or 1) == kept.digest, "common": kept.common}

    async def do_usage(self) -> Reply:
        gc.collect()
        assert self._running._node is not None
        process = psutil.Process()
        return {
            "fds": process.num_fds(),
            "rss": process.memory_info().rss,
            "tasks": len(asyncio.all_tasks()) - len(self._tasks),
            "links": len(self._running._node.hub.links),
            "waiting": len(self._running._node.hub._pending),
            "rejected": self._running._node.hub.rejected,
        }

    async def do_links(self) -> Reply:
        """How many links are open here, opened and accepted ones."""
        assert self._running._node is not None
        return {"links": len(self._running._node.hub.links)}

    async def do_inside(self) -> Reply:
        """What a failed test prints: where this peer stands in its round."""
        assert self._running._node is not None
        rounds = self._running._node.rounds
        machine, attempt, ring = rounds._machine, rounds._attempt, rounds._links
        progress = {name: str(value) for name, value in vars(machine.progress).items()}
        return {
            "epoch": str(machine.epoch),
            "bound": machine._bound,
            "seeking": machine._seeking,
            "proposal": str(machine._proposal),
            "waiting": list(machine._waiting),
            "progress": progress,
            "timers": [str(key) for key in rounds._driver._timers._handles],
            "attempt": None if attempt is None else {"missing": attempt._progress._missing, "over": attempt._over},
            "ring": {name: str(value) for name, value in vars(ring).items()},
            "arrivals": {name: str(value) for name, value in vars(self._running._node.arrivals).items()},
            "held": [link.remote for link in self._running._node.hub.links if link.protocol.held],
        }

    async def do_flood(self, victim: str, times: int) -> Reply:
        """Tell every other member forged claims about ``victim``, and, in this peer's own name, that it is dead."""
        node = self._running._node
        assert node is not None
        sent = 0
        for _ in range(times):
            for lie in lies_about(victim, node):
                for member in node.view():
                    if member.id != node.me.id:
                        await node.channels.deliver_packet(member.address, lie, timeout=5.0)
                        sent += 1
        return {"sent": sent}

    async def do_view(self) -> Reply:
        """What this peer believes of everyone, and how many claims it refused to."""
        swim = self._running._node.swim  # type: ignore[union-attr]
        return {"view": {v.peer.id: [v.status.name, v.incarnation] for v in swim.view()}, "refused": swim.refused}

    async def do_leave(self) -> None:
        await self._running.leave()


def _send_elsewhere(port: int) -> None:
    original = LinkHub.issue_ticket

    def issue_ticket(hub: LinkHub, *arguments: Any) -> Ticket:
        return replace(original(hub, *arguments), port=port)

    LinkHub.issue_ticket = issue_ticket  # type: ignore[method-assign]


@contextlib.contextmanager
def _whatever_it_is() -> Iterator[None]:
    """What this peer brings is not looked at here."""
    original = packing._is_sound
    packing._is_sound = lambda *_: True
    try:
        yield
    finally:
        packing._is_sound = original


def _as_reply(result: RoundResult) -> Reply:
    plain = {field.name: getattr(result, field.name) for field in fields(result) if field.name != "notes"}
    plain["lost"] = [[lost.peer, lost.reason] for lost in result.lost]
    return plain


def main(channel: socket.socket, log: str) -> None:
    """Be a worker on ``channel``; what it logs is appended to the file ``log``."""
    import uvloop

    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    os.close(descriptor)
    configure_logging("info")

    async def serve() -> None:
        reader, writer = await asyncio.open_connection(sock=channel)
        await Worker(reader, writer).serve()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve())
