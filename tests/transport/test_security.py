"""The server's door in a swarm with credentials: who gets in, who does not, and what they are told."""

from __future__ import annotations

import asyncio
import contextlib
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import timedelta

import grpc
import pytest
from control_fakes import DEADLINE, JOB, MANIFEST, ME, STATUS, YOU, Recorder, failing, serving
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ed25519
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from structlog.testing import capture_logs
from swarm_keys import Family, node_of

from lepton_p2p.credentials.bearer import Bearer, to_der, to_pem
from lepton_p2p.credentials.certificates import Certificate, Holder, Role, make_invite, make_process, now
from lepton_p2p.credentials.enrolment import Request, grant, write_request
from lepton_p2p.credentials.keys import new_key
from lepton_p2p.credentials.revocations import revoke
from lepton_p2p.errors import CredentialsRefused, ProtocolMismatch, Revoked, SwarmUnreachable
from lepton_p2p.identity import PeerId, PeerInfo, split_address
from lepton_p2p.membership.messages import Gossip, Packet
from lepton_p2p.proto.lepton.v1 import credentials_pb2
from lepton_p2p.rounds.messages import Admit
from lepton_p2p.transport import guard
from lepton_p2p.transport.channels import Channels
from lepton_p2p.transport.handlers import Handlers
from lepton_p2p.transport.links.link import Purpose
from lepton_p2p.transport.metadata import Hello
from lepton_p2p.transport.options import MAX_MESSAGE_BYTES
from lepton_p2p.transport.security import CHANNEL_OPTIONS, Security
from lepton_p2p.transport.values import SwarmEvent
from lepton_p2p.transport.wire_credentials import MAX_CHAINS, Enrolled, shown_from_wire

FAMILY = Family()
AUTHORITY = FAMILY.authority.authority
INVITE = make_invite(FAMILY.issuer, hours=1, may_issue=False)


class Office(Recorder):
    """A recorder that certifies machines as well."""

    def handlers(self) -> Handlers:
        return replace(super().handlers(), credentials=self)

    async def enrol(self, request: Request, asker: Bearer) -> Enrolled:
        await self.note("enrol", request.name, asker.role)
        return Enrolled(grant(FAMILY.issuer, asker, request))

    async def exchange(self, statements: tuple[bytes, ...]) -> tuple[bytes, ...]:
        await self.note("exchange", statements)
        return statements

    async def show(self, processes: tuple[PeerId, ...]) -> tuple[tuple[bytes, ...], ...]:
        await self.note("show", processes)
        return (to_der(FAMILY.process.chain),) * len(processes)


class Door:
    """A server of the family's swarm, and callers to it."""

    def __init__(self, office: Office, security: Security, address: str) -> None:
        self.office, self.security, self.address = office, security, address
        self.id = PeerId(security.holder.id)

    @asynccontextmanager
    async def caller(self, holder: Holder | None, swarm: str = "lepton") -> AsyncIterator[Channels]:
        security = Security(holder) if holder is not None else None
        me = PeerId(holder.id) if holder is not None else None
        async with Channels(swarm=swarm, me=me, security=security) as channels:
            yield channels


@asynccontextmanager
async def door(holder: Holder | None = None) -> AsyncIterator[Door]:
    office, security = Office(), Security(holder or make_process(FAMILY.issuer))
    async with serving(office.handlers(), security=security) as server:
        yield Door(office, security, server.address)


@asynccontextmanager
async def channel_of(address: str, holder: Holder) -> AsyncIterator[grpc.aio.Channel]:
    async with grpc.aio.secure_channel(address, Security(holder).for_channel(), options=CHANNEL_OPTIONS) as channel:
        yield channel


async def test_a_process_of_the_swarm_gets_in_and_the_server_proves_who_it_is() -> None:
    async with door() as there, there.caller(FAMILY.process) as channels:
        assert await channels.status(there.address) == STATUS
        assert await channels.manifest(PeerInfo(there.id, there.address), "snapshot", 12) == MANIFEST


async def test_without_a_certificate_nobody_gets_in_in_clear_text_or_in_tls() -> None:
    async with door() as there, there.caller(None) as channels:
        await failing(channels.status(there.address), SwarmUnreachable)
        diagnosis = await channels.diagnose(there.address)
        assert "has credentials: join with a token" in str(diagnosis)
        bare = grpc.ssl_channel_credentials(to_pem([AUTHORITY]))
        async with grpc.aio.secure_channel(there.address, bare, options=CHANNEL_OPTIONS) as channel:
            for method in ("/lepton.v1.Swarm/Status", "/grpc.health.v1.Health/Check", guard.ENROL):
                with pytest.raises(grpc.aio.AioRpcError) as caught:
                    await channel.unary_unary(method)(b"", timeout=DEADLINE)
                assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        assert not there.office.got


async def test_another_swarm_gets_nowhere_and_is_told_so_even_under_the_same_name() -> None:
    async with door() as there:
        for other in (Family("other"), Family("lepton")):
            async with there.caller(other.process, other.authority.swarm) as channels:
                await failing(channels.status(there.address), SwarmUnreachable)
                line = str(await channels.diagnose(there.address))
                assert f"another swarm: these credentials are of swarm {other.authority.swarm!r}" in line
        assert not there.office.got


async def test_a_certificate_of_another_swarm_does_not_help_if_the_caller_trusts_this_one() -> None:
    stranger = Family()
    mixed = Holder(stranger.process.key, stranger.process.chain, AUTHORITY)
    async with door() as there, there.caller(mixed) as channels:
        await failing(channels.status(there.address), SwarmUnreachable)
        assert not there.office.got


async def test_an_expired_certificate_is_refused_and_named() -> None:
    then = now() - timedelta(days=9)
    expired = make_process(node_of(FAMILY.authority, at=then, days=1), at=then)
    async with door() as there, there.caller(expired) as channels:
        await failing(channels.status(there.address), SwarmUnreachable)
        assert "certificate has expired on" in str(await channels.diagnose(there.address))
    async with door(expired) as there, there.caller(FAMILY.process) as channels:
        await failing(channels.status(there.address), SwarmUnreachable)
        assert "the peer at" in str(await channels.diagnose(there.address))
        assert "has expired: is this machine's clock wrong?" in str(await channels.diagnose(there.address))


async def test_credentials_on_one_side_only_are_named() -> None:
    secured = Channels(swarm="lepton", security=Security(FAMILY.process))
    async with serving(Recorder().handlers()) as plain, secured:
        await failing(secured.status(plain.address), SwarmUnreachable)
        assert "has no credentials, and this one has" in str(await secured.diagnose(plain.address))
    async with Channels(swarm="lepton") as nobody:
        assert await nobody.diagnose("127.0.0.1:1") is None


async def test_an_unhealthy_network_is_not_blamed_on_credentials() -> None:
    async with door() as there, there.caller(FAMILY.process) as channels:
        assert await channels.diagnose(there.address) is None
        assert await channels.diagnose("127.0.0.1:1") is None


def forgeries(there: Door) -> list[Callable[[Channels], Awaitable[object]]]:
    """Calls in the name of a peer that the caller is not."""
    other = Channels(swarm="lepton", me=YOU.id, security=Security(FAMILY.process))

    async def open_link(_: Channels) -> object:
        async with other:
            return await other.open_link(there.address, Purpose.RING)

    return [
        lambda c: c.deliver_packet(there.address, Packet(YOU, Gossip()), DEADLINE),
        lambda c: c.deliver_round(there.address, Admit(YOU, ""), DEADLINE),
        open_link,
    ]


@pytest.mark.parametrize("number", range(3), ids=["packet", "round message", "link"])
async def test_a_forged_id_is_refused_before_anybody_sees_it(number: int) -> None:
    async with door() as there, there.caller(FAMILY.process) as channels:
        line = await failing(forgeries(there)[number](channels), CredentialsRefused)
        assert f"it comes from {YOU.id[:8]}, its certificate says {FAMILY.process.id[:8]}" in line
        assert not there.office.got


async def test_the_same_calls_in_ones_own_name_arrive() -> None:
    me = PeerInfo(PeerId(FAMILY.process.id), "127.0.0.1:9")
    async with door() as there, there.caller(FAMILY.process) as channels:
        await channels.deliver_packet(there.address, Packet(me, Gossip()), DEADLINE)
        await channels.deliver_round(there.address, Admit(me, ""), DEADLINE)
        await channels.open_link(there.address, Purpose.RING)
        assert len(there.office.got) == 3


GUEST = PeerInfo(PeerId(INVITE.id), "127.0.0.1:9")
CALLS: dict[str, Callable[[Channels, str], Awaitable[object]]] = {
    "packet": lambda c, to: c.deliver_packet(to, Packet(GUEST, Gossip()), DEADLINE),
    "round": lambda c, to: c.deliver_round(to, Admit(GUEST, ""), DEADLINE),
    "link": lambda c, to: c.open_link(to, Purpose.FETCH),
    "manifest": lambda c, to: c.manifest(to, "snapshot", 1),
    "result": lambda c, to: c.result(to, 1),
    "job": lambda c, to: c.get_job(to),
    "offer": lambda c, to: c.offer_job(to, JOB),
    "submit": lambda c, to: c.submit(to, JOB),
    "status": lambda c, to: c.status(to),
    "members": lambda c, to: c.members(to),
    "weights": lambda c, to: c.weights(to),
    "events": lambda c, to: anext(c.events(to)),
    "revocations": lambda c, to: c.exchange_revocations(to, ()),
    "certificates": lambda c, to: c.show(to, ("a" * 32,)),
}


@pytest.mark.parametrize("name", CALLS)
async def test_an_invite_is_good_for_nothing_but_enrolling(name: str) -> None:
    async with door() as there, there.caller(INVITE) as channels:
        assert "enrolling only" in await failing(CALLS[name](channels, there.address), CredentialsRefused)
        assert not there.office.got


async def test_an_invite_sees_neither_health_nor_reflection() -> None:
    async with door() as there, channel_of(there.address, INVITE) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=DEADLINE)
        assert caught.value.code() is grpc.StatusCode.PERMISSION_DENIED
        ask = reflection_pb2.ServerReflectionRequest(list_services="")
        answers = reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo(iter([ask]))
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await anext(aiter(answers))
        assert caught.value.code() is grpc.StatusCode.PERMISSION_DENIED


async def test_a_member_sees_health_and_reflection() -> None:
    async with door() as there, channel_of(there.address, FAMILY.process) as channel:
        reply = await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=DEADLINE)
        assert reply.status == health_pb2.HealthCheckResponse.SERVING
        ask = reflection_pb2.ServerReflectionRequest(list_services="")
        async for answer in reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo(iter([ask])):
            assert "lepton.v1.Credentials" in {s.name for s in answer.list_services_response.service}
            break


async def test_an_invite_enrols_and_the_new_node_gets_in() -> None:
    key = new_key()
    async with door() as there:
        async with there.caller(INVITE) as channels:
            answer = await channels.enrol(there.address, write_request("lepton", "laptop", key))
        assert there.office.got == [("enrol", "laptop", Role.INVITE)]
        async with there.caller(make_process(Holder(key, answer.chain, AUTHORITY))) as channels:
            assert await channels.status(there.address) == STATUS


async def test_a_request_that_asks_for_more_or_is_none_is_refused() -> None:
    async with door() as there, there.caller(INVITE) as channels:
        for request in (b"", b"nonsense", bytes(3000)):
            assert "request" in await failing(channels.enrol(there.address, request), ProtocolMismatch)
        assert not there.office.got


async def test_nobody_enrols_in_a_swarm_without_credentials() -> None:
    async with serving(Office().handlers()) as server, Channels(swarm="lepton") as channels:
        request = write_request("lepton", "laptop", new_key())
        assert "no credentials" in await failing(channels.enrol(server.address, request), CredentialsRefused)


async def test_who_calls_is_judged_before_what_it_says_is_read() -> None:
    async with door() as there:
        expected = {INVITE: grpc.StatusCode.PERMISSION_DENIED, FAMILY.process: grpc.StatusCode.INVALID_ARGUMENT}
        for holder, code in expected.items():
            async with channel_of(there.address, holder) as channel:
                with pytest.raises(grpc.aio.AioRpcError) as caught:
                    await channel.unary_unary("/lepton.v1.Jobs/Offer")(
                        b"\xff\xff\xff", timeout=DEADLINE, metadata=Hello("lepton").to_metadata()
                    )
                assert caught.value.code() is code
        assert not there.office.got


async def test_a_message_above_the_bound_is_refused() -> None:
    async with door() as there, channel_of(there.address, FAMILY.process) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await channel.unary_unary("/lepton.v1.Jobs/Offer")(
                bytes(MAX_MESSAGE_BYTES + 1), timeout=DEADLINE, metadata=Hello("lepton").to_metadata()
            )
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert not there.office.got


@pytest.mark.parametrize("kind", [grpc.Compression.Gzip, grpc.Compression.Deflate])
async def test_a_compressed_message_is_refused_however_small_it_is(kind: grpc.Compression) -> None:
    """A bomb: sizes are checked before it is unpacked."""
    assert len(zlib.compress(bytes(64 << 20))) < MAX_MESSAGE_BYTES
    async with door() as there, channel_of(there.address, FAMILY.process) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await channel.unary_unary("/lepton.v1.Jobs/Offer")(
                bytes(3 << 20), timeout=DEADLINE, metadata=Hello("lepton").to_metadata(), compression=kind
            )
        assert caught.value.code() in (grpc.StatusCode.UNIMPLEMENTED, grpc.StatusCode.INTERNAL)
        assert not there.office.got


async def test_another_peer_at_the_address_is_recognised() -> None:
    async with door() as there, there.caller(FAMILY.process) as channels:
        line = await failing(channels.get_job(PeerInfo(ME.id, there.address)), SwarmUnreachable)
        assert f"peer {there.id[:8]} answers, not {ME.id[:8]}" in line


async def test_a_peer_that_is_revoked_is_refused_on_the_connection_that_it_has() -> None:
    async with door() as there, there.caller(FAMILY.process) as channels:
        assert await channels.status(there.address) == STATUS
        there.security.revocations.add([revoke(FAMILY.authority, None, FAMILY.member.id, "stolen").encoded])
        line = await failing(channels.status(there.address), Revoked)
        assert line == f"node {FAMILY.member.id[:8]} was revoked: stolen"
        async with there.caller(make_process(FAMILY.member)) as again:
            await failing(again.status(there.address), Revoked)
        async with there.caller(make_process(FAMILY.issuer)) as other:
            assert await other.status(there.address) == STATUS


async def test_a_stream_ends_when_its_reader_is_revoked() -> None:
    event = SwarmEvent(1.0, "step")
    async with door() as there, there.caller(FAMILY.process) as channels:
        events = channels.events(there.address)
        there.office.queue.put_nowait(event)
        assert await anext(events) == event
        there.security.revocations.add([revoke(FAMILY.authority, None, FAMILY.member.id, "stolen").encoded])
        there.office.queue.put_nowait(event)
        await failing(anext(events), Revoked)
        await asyncio.wait_for(there.office.readers_gone.wait(), DEADLINE)


async def test_a_revoked_invite_enrols_nobody() -> None:
    async with door() as there, there.caller(INVITE) as channels:
        there.security.revocations.add([revoke(FAMILY.authority, None, INVITE.id, "leaked").encoded])
        await failing(channels.enrol(there.address, write_request("lepton", "laptop", new_key())), Revoked)


async def test_a_refusal_is_logged_once_and_shows_no_secret() -> None:
    async with door() as there, there.caller(INVITE) as channels:
        with capture_logs() as logs:
            for _ in range(3):
                await failing(channels.status(there.address), CredentialsRefused)
        (line,) = [entry for entry in logs if entry["log_level"] == "warning"]
        assert "enrolling only" in line["reason"]


async def test_one_node_cannot_take_all_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard, "MAX_CALLS_OF_NODE", 4)
    other_node = make_process(FAMILY.issuer)
    async with door() as there, there.caller(FAMILY.process) as channels, there.caller(other_node) as neighbour:
        there.office.go_on.clear()
        many = [asyncio.create_task(channels.status(there.address, DEADLINE)) for _ in range(5)]
        done, waiting = await asyncio.wait(many, return_when=asyncio.FIRST_COMPLETED, timeout=DEADLINE)
        assert [type(task.exception()) for task in done] == [SwarmUnreachable]
        other = asyncio.create_task(neighbour.status(there.address, DEADLINE))
        there.office.go_on.set()
        assert await other == STATUS
        assert [task.result() for task in (await asyncio.wait(waiting))[0]] == [STATUS] * 4
        assert await channels.status(there.address) == STATUS


async def test_one_node_cannot_bring_processes_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard, "NEW_PROCESSES", 3)
    async with door() as there:
        async with there.caller(make_process(FAMILY.member)) as first:
            await first.status(there.address)
            refused = 0
            for _ in range(4):
                async with there.caller(make_process(FAMILY.member)) as channels:
                    try:
                        await channels.status(there.address)
                    except SwarmUnreachable as error:
                        refused += "new processes of one node" in str(error)
            assert refused >= 1
            assert await first.status(there.address) == STATUS
        async with there.caller(make_process(FAMILY.issuer)) as channels:
            assert await channels.status(there.address) == STATUS


async def test_an_old_tls_version_and_a_call_without_a_certificate_are_refused() -> None:
    class Context:
        def __init__(self, **shown: bytes) -> None:
            self._shown = shown

        def auth_context(self) -> dict[str, list[bytes]]:
            return {key: [value] for key, value in self._shown.items()}

    watch = guard.Guard(Security(FAMILY.process), lambda: 0.0)
    leaf, above = to_pem(FAMILY.process.chain[:1]), to_pem(FAMILY.process.chain[1:])
    good = Context(ssl_tls_version=b"TLSv1.3", x509_pem_cert=leaf, x509_pem_cert_chain=above)
    with watch.admitted(good, "/x") as bearer:  # type: ignore[arg-type]
        assert bearer.id == FAMILY.process.id
    old = Context(ssl_tls_version=b"TLSv1.2", x509_pem_cert=leaf, x509_pem_cert_chain=above)
    bare = Context(ssl_tls_version=b"TLSv1.3")
    for context, words in ((old, "TLS 1.3"), (bare, "without a certificate"), (Context(), "TLS")):
        with pytest.raises(CredentialsRefused, match=words), watch.admitted(context, "/x"):  # type: ignore[arg-type]
            raise AssertionError("admitted")


def test_a_certificate_expires_on_a_connection_that_lives_on() -> None:
    security = Security(FAMILY.process)
    leaf, above = to_pem(FAMILY.process.chain[:1]), to_pem(FAMILY.process.chain[1:])
    assert security.judge(leaf, above).id == FAMILY.process.id
    with pytest.raises(CredentialsRefused, match="expired"):
        security.judge(leaf, above, now() + timedelta(days=5000))


def test_a_certificate_with_strange_contents_is_refused_in_one_way() -> None:
    """A member can sign anything for itself: a key of another kind, say."""
    member, key = FAMILY.member, ed25519.Ed25519PrivateKey.generate()
    builder = x509.CertificateBuilder().subject_name(FAMILY.process.certificate.subject).serial_number(1)
    builder = builder.issuer_name(member.certificate.subject).public_key(key.public_key())
    builder = builder.not_valid_before(now() - timedelta(days=1)).not_valid_after(now() + timedelta(days=1))
    odd = builder.sign(member.key, hashes.SHA256())
    for leaf in (to_pem([odd]), b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", b"no"):
        with pytest.raises(CredentialsRefused):
            Security(FAMILY.process).judge(leaf, to_pem(member.chain))


def test_certificates_that_are_sent_along_do_not_hide_a_revoked_node() -> None:
    security = Security(FAMILY.process)
    security.revocations.add([revoke(FAMILY.authority, None, FAMILY.member.id, "stolen").encoded])
    decoys: tuple[Certificate, ...] = (node_of(FAMILY.issuer).certificate, FAMILY.issuer.certificate)
    leaf, member, issuer = FAMILY.process.chain
    for above in ((*decoys, member, issuer), (member, issuer)):
        with pytest.raises(Revoked):
            security.judge(to_pem([leaf]), to_pem(above))


async def test_hundreds_of_connections_that_say_nothing_or_nonsense_keep_nobody_out_and_are_hung_up() -> None:
    async with door() as there, there.caller(FAMILY.process) as channels:
        host, port = split_address(there.address)
        async with asyncio.timeout(4 * DEADLINE):
            silent = [await asyncio.open_connection(host, port) for _ in range(400)]
            for number, (_, writer) in enumerate(silent):
                # A TLS record that announces 16 KiB and never brings them, plain text, or nothing at all.
                writer.write((b"\x16\x03\x01\x40\x00\x01", b"PRI * HTTP/2.0\r\n\r\n", b"")[number % 3])
            assert await channels.status(there.address) == STATUS
            async with there.caller(make_process(FAMILY.issuer)) as newcomer:
                assert await newcomer.status(there.address) == STATUS
            for reader, writer in silent:
                with contextlib.suppress(ConnectionError):
                    assert await reader.read() is not None
                writer.close()


async def test_members_show_each_other_the_certificates_of_others_in_bounded_numbers() -> None:
    async with door() as there, there.caller(FAMILY.process) as channels:
        shown = await channels.show(there.address, ("a" * 32, "b" * 32))
        assert shown == (to_der(FAMILY.process.chain),) * 2
        for asked in (("no id",), ("a" * 32,) * 2, tuple(f"{n:032x}" for n in range(MAX_CHAINS + 1))):
            with pytest.raises(ProtocolMismatch):
                await channels.show(there.address, asked)


@pytest.mark.parametrize(
    ("shown", "words"),
    [
        (credentials_pb2.Shown(chains=[credentials_pb2.Chain()] * (MAX_CHAINS + 1)), "at most 500 chains"),
        (credentials_pb2.Shown(chains=[credentials_pb2.Chain(certificates=[b""] * 7)]), "at most 6 certificates"),
        (credentials_pb2.Shown(chains=[credentials_pb2.Chain(certificates=[bytes(2049)])]), "at most 2048 bytes"),
    ],
    ids=["chains", "certificates", "bytes"],
)
def test_certificates_are_shown_in_bounded_numbers_and_sizes(shown: credentials_pb2.Shown, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        shown_from_wire(shown)


async def test_a_version_that_does_not_sign_its_claims_is_told_to_upgrade() -> None:
    old = Hello("lepton", protocol=1, oldest=1)
    async with door() as there, Channels(swarm="lepton", hello=old, security=Security(FAMILY.process)) as channels:
        assert "upgrade lepton_p2p" in await failing(channels.status(there.address), ProtocolMismatch)
    async with serving(Recorder().handlers()) as server, Channels(swarm="lepton", hello=old) as channels:
        await channels.status(server.address)
