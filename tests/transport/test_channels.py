"""Every call arrives as it was meant, and every way to fail has its own class and one clear line."""

from __future__ import annotations

import asyncio
import socket
from contextlib import aclosing
from dataclasses import replace

import psutil
import pytest
from control_fakes import DEADLINE, JOB, MANIFEST, ME, MEMBERS, RESULT, STATUS, YOU, Recorder, calling, failing, serving
from man_in_the_middle import Middle, Passing

from lepton_p2p import errors
from lepton_p2p.errors import (
    AddressError,
    Closed,
    JobError,
    LeptonError,
    ProtocolMismatch,
    SwarmUnreachable,
    WrongSwarm,
)
from lepton_p2p.identity import split_address
from lepton_p2p.membership.messages import Packet, Ping
from lepton_p2p.rounds.messages import Leaving
from lepton_p2p.transport.channels import MOST_SENDINGS, Channels
from lepton_p2p.transport.handlers import Handlers
from lepton_p2p.transport.links.link import Purpose
from lepton_p2p.transport.links.tickets import Ticket
from lepton_p2p.transport.metadata import Hello
from lepton_p2p.transport.values import JobDocument, OfferReply, SwarmEvent

ERRORS = [found for found in vars(errors).values() if isinstance(found, type) and issubclass(found, LeptonError)]
PACKET = Packet(YOU, Ping(1, ME.id))
EVENT = SwarmEvent(1.5, "joined", YOU.id, "b joined", {"members": 2.0})


async def test_every_call_arrives_and_is_answered() -> None:
    recorder = Recorder()
    async with calling(recorder) as (to, channels):
        await channels.deliver_packet(to, PACKET, DEADLINE)
        await channels.deliver_round(to, Leaving(YOU, "bye"), DEADLINE)
        assert await channels.open_link(to, Purpose.RING) == Ticket(4242, b"t" * 32)
        assert await channels.open_link(to, Purpose.PUSH, share=b"s" * 32) == Ticket(4242, b"t" * 32, b"s" * 32)
        assert await channels.manifest(to, "snapshot", 12) == MANIFEST
        assert await channels.result(to, 12) == RESULT
        assert await channels.get_job(to, "0" * 64) == JOB
        assert await channels.offer_job(to, JOB) == OfferReply(False, "busy with another job")
        assert await channels.submit(to, JOB) == OfferReply(True)
        assert await channels.status(to) == STATUS
        assert await channels.members(to) == MEMBERS
        assert await channels.weights(to) == MANIFEST
    assert recorder.got == [
        PACKET,
        Leaving(YOU, "bye"),
        (YOU.id, Purpose.RING, b""),
        (YOU.id, Purpose.PUSH, b"s" * 32),
        ("snapshot", 12),
        12,
        "0" * 64,
        ("offer", JOB),
        ("submit", JOB),
        "status",
        "members",
        "weights",
    ]


async def test_events_come_in_order_and_end_with_the_peer() -> None:
    recorder = Recorder()
    async with calling(recorder) as (to, channels):
        for event in (EVENT, SwarmEvent(2.0, "round"), None):
            recorder.queue.put_nowait(event)
        assert [event async for event in channels.events(to)] == [EVENT, SwarmEvent(2.0, "round")]


async def test_a_reader_that_goes_away_is_noticed_by_the_peer() -> None:
    recorder = Recorder()
    async with calling(recorder) as (to, channels):
        recorder.queue.put_nowait(EVENT)
        async with aclosing(channels.events(to)) as events:  # type: ignore[type-var]
            assert await anext(events) == EVENT
        async with asyncio.timeout(DEADLINE):
            await recorder.readers_gone.wait()


async def test_events_of_a_peer_that_stops_raise() -> None:
    recorder = Recorder()
    async with serving(recorder.handlers()) as server, Channels(swarm="lepton") as channels:
        recorder.queue.put_nowait(EVENT)
        events = channels.events(server.address)
        assert await anext(events) == EVENT
        await server.stop(0)
        await failing(anext(events), SwarmUnreachable)


@pytest.mark.parametrize("kind", ERRORS)
async def test_an_error_of_the_handler_is_raised_here_with_the_same_class_and_text(kind: type[LeptonError]) -> None:
    recorder = Recorder()
    recorder.failure = kind("round 12 is no longer kept: ask a member that holds it")
    async with calling(recorder) as (to, channels):
        assert await failing(channels.manifest(to, "snapshot", 12), kind) == str(recorder.failure)


async def test_an_unnamed_subclass_arrives_as_its_nearest_named_class() -> None:
    class Special(JobError):
        pass

    recorder = Recorder()
    recorder.failure = Special("no")
    async with calling(recorder) as (to, channels):
        assert await failing(channels.get_job(to), JobError) == "no"


async def test_a_bug_in_a_handler_says_nothing_of_its_insides() -> None:
    recorder = Recorder()
    recorder.failure = KeyError("secret")
    async with calling(recorder) as (to, channels):
        line = await failing(channels.status(to), LeptonError)
        assert "Swarm.Status" in line
        assert "secret" not in line


async def test_nobody_listens() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        to = f"127.0.0.1:{free.getsockname()[1]}"
        async with Channels(swarm="lepton") as channels:
            line = await failing(channels.status(to, DEADLINE), SwarmUnreachable)
            assert to in line
            assert "refused" in line


async def test_a_host_that_does_not_exist() -> None:
    async with Channels(swarm="lepton") as channels:
        line = await failing(channels.status("no-such-host.invalid:7700", DEADLINE), AddressError)
        assert "no-such-host.invalid" in line


@pytest.mark.parametrize("to", ["nonsense", "host:99999", ":1", "host:0", "unix:/tmp/x:1", "a/b:1"])
async def test_an_address_that_is_none(to: str) -> None:
    async with Channels(swarm="lepton") as channels:
        assert "is not an address" in await failing(channels.status(to), AddressError)


async def test_no_answer_in_time() -> None:
    recorder = Recorder()
    recorder.go_on.clear()
    async with calling(recorder) as (to, channels):
        line = await failing(channels.status(to, 0.2), SwarmUnreachable)
        assert line == f"{to} did not answer within 0.2 s"
        recorder.go_on.set()


async def test_a_listener_that_never_speaks() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        to = f"127.0.0.1:{silent.getsockname()[1]}"
        async with Channels(swarm="lepton") as channels:
            await failing(channels.status(to, 0.2), SwarmUnreachable)


async def test_another_swarm() -> None:
    recorder = Recorder()
    async with calling(recorder, swarm="schwärm, zwei") as (to, channels):
        line = await failing(channels.deliver_packet(to, PACKET, DEADLINE), WrongSwarm)
        assert to in line
        assert "'lepton'" in line
        assert "'schwärm, zwei'" in line
        await failing(anext(channels.events(to)), WrongSwarm)
    assert recorder.got == []


@pytest.mark.parametrize(
    ("ours", "theirs"), [(Hello("s", 1, 1), Hello("s", 3, 2)), (Hello("s", 3, 2), Hello("s", 1, 1))]
)
async def test_protocols_that_do_not_work_together(ours: Hello, theirs: Hello) -> None:
    async with (
        serving(Recorder().handlers(), hello=theirs) as server,
        Channels(swarm="s", hello=ours) as channels,
    ):
        line = await failing(channels.status(server.address), ProtocolMismatch)
        assert server.address in line
        assert str(ours.protocol) in line
        assert str(theirs.protocol) in line
        assert "upgrade" in line


async def test_a_service_that_is_not_offered() -> None:
    async with serving(Handlers()) as server, Channels(swarm="lepton") as channels:
        assert "does not offer" in await failing(channels.status(server.address), ProtocolMismatch)


async def test_a_client_gets_fetch_links_only() -> None:
    recorder = Recorder()
    async with calling(recorder, me=None) as (to, channels):
        await channels.open_link(to, Purpose.FETCH)
        assert "FETCH" in await failing(channels.open_link(to, Purpose.RING), ProtocolMismatch)
    assert recorder.got == [(None, Purpose.FETCH, b"")]


async def test_requests_out_of_bounds_are_refused_by_the_peer() -> None:
    recorder = Recorder()
    async with calling(recorder) as (to, channels):
        for call in (
            channels.manifest(to, "", 1),
            channels.manifest(to, "k" * 65, 1),
            channels.result(to, 2**63),
            channels.get_job(to, "xyz"),
            channels.offer_job(to, JobDocument(b"{}", "ABC")),
            channels.submit(to, JobDocument(b"", "0" * 64)),
        ):
            assert "malformed" in await failing(call, ProtocolMismatch)
    assert recorder.got == []


async def test_a_job_that_is_too_large_does_not_leave() -> None:
    recorder = Recorder()
    async with calling(recorder) as (to, channels):
        with pytest.raises(ValueError, match="bytes of a job"):
            await channels.submit(to, JobDocument(b"x" * (1024 * 1024 + 1), "0" * 64))


async def test_probes_have_a_connection_of_their_own() -> None:
    async with calling(Recorder()) as (to, channels):
        port = int(to.rpartition(":")[2])

        def connections() -> int:
            mine = psutil.Process().net_connections("tcp")
            return sum(1 for c in mine if c.raddr and c.raddr.port == port and c.status == psutil.CONN_ESTABLISHED)

        await channels.status(to)
        await channels.deliver_round(to, Leaving(YOU, "bye"), DEADLINE)
        assert connections() == 1
        await channels.deliver_packet(to, PACKET, DEADLINE)
        assert connections() == 2


async def test_a_peer_that_came_back_is_reached_again() -> None:
    recorder = Recorder()
    async with Channels(swarm="lepton") as channels:
        async with serving(recorder.handlers()) as server:
            to = server.address
            await channels.status(to)
        await failing(channels.status(to), SwarmUnreachable)
        async with serving(recorder.handlers(), listen=to), asyncio.timeout(DEADLINE):
            while True:
                try:
                    assert await channels.status(to) == STATUS
                except SwarmUnreachable:
                    await asyncio.sleep(0)  # the channel dials again after at most a second
                    continue
                break


@pytest.mark.parametrize("outbound", [True, False], ids=["before it arrives", "before it is answered"])
async def test_a_round_message_gets_through_although_its_connection_breaks(outbound: bool) -> None:
    recorder, breaks = Recorder(), False

    def change(passing: Passing, out: bool, data: bytes) -> bytes:
        nonlocal breaks
        if breaks and out is outbound:
            breaks = False
            raise ConnectionResetError
        return data

    async with (
        serving(recorder.handlers()) as server,
        Middle(split_address(server.address)[1], change) as middle,
        Channels(swarm="lepton") as channels,
    ):
        to = f"127.0.0.1:{middle.port}"
        await channels.deliver_round(to, Leaving(YOU, "first"), DEADLINE)
        breaks = True
        await channels.deliver_round(to, Leaving(YOU, "second"), DEADLINE)
        assert not breaks
        assert len(middle.passing) > 1, "over a connection of its own"
    first, *others = recorder.got
    assert first == Leaving(YOU, "first")
    assert others in [[Leaving(YOU, "second")] * times for times in range(1, MOST_SENDINGS + 1)]


async def test_a_round_message_to_a_peer_that_is_gone_fails_at_once() -> None:
    recorder = Recorder()
    async with Channels(swarm="lepton") as channels:
        async with serving(recorder.handlers()) as server:
            await channels.deliver_round(server.address, Leaving(YOU, "bye"), DEADLINE)
        await failing(channels.deliver_round(server.address, Leaving(YOU, "bye"), DEADLINE), SwarmUnreachable)


async def test_forgetting_a_peer_ends_its_calls_and_only_those() -> None:
    recorder, other = Recorder(), Recorder()
    recorder.go_on.clear()
    async with calling(recorder) as (to, channels), serving(other.handlers()) as kept:
        await channels.status(kept.address)
        call = asyncio.create_task(channels.status(to, DEADLINE))
        await recorder.arrived.wait()
        assert set(channels.addresses) == {to, kept.address}
        await channels.forget(to)
        await failing(call, Closed)
        assert channels.addresses == (kept.address,)
        await channels.forget("127.0.0.1:1")
        assert await channels.status(kept.address) == STATUS
        recorder.go_on.set()


async def test_closed_channels_say_so() -> None:
    recorder = Recorder()
    recorder.go_on.clear()
    async with calling(recorder) as (to, channels):
        call = asyncio.create_task(channels.status(to, DEADLINE))
        await recorder.arrived.wait()
        await channels.close()
        await failing(call, Closed)
        await failing(channels.status(to), Closed)
        await channels.close()
        recorder.go_on.set()


async def test_cancelling_a_call_cancels_it_and_nothing_else() -> None:
    recorder = Recorder()
    recorder.go_on.clear()
    async with calling(recorder) as (to, channels):
        call = asyncio.create_task(channels.status(to, DEADLINE))
        await recorder.arrived.wait()
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        recorder.go_on.set()
        assert await channels.status(to) == STATUS


async def test_an_answer_that_is_out_of_bounds_is_not_taken() -> None:
    class Liar(Recorder):
        async def open(self, remote: object, purpose: Purpose, share: bytes) -> Ticket:
            return Ticket(0, b"")

    async with calling(Liar()) as (to, channels):
        assert "does not understand" in await failing(channels.open_link(to, Purpose.RING), ProtocolMismatch)


async def test_a_message_above_the_limit_is_refused_and_the_peer_stays_up() -> None:
    class Large(Recorder):
        async def manifest(self, kind: str, round: int) -> object:  # type: ignore[override]
            return replace(MANIFEST, meta_json=b"x" * (5 * 1024 * 1024))

    async with calling(Large()) as (to, channels):
        await failing(channels.manifest(to, "snapshot", 1), SwarmUnreachable)
        assert await channels.status(to) == STATUS
