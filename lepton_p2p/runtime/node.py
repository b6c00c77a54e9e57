"""A peer without a job: membership, rounds, links and the gRPC server, started and stopped together."""

from __future__ import annotations

import asyncio
import contextlib
import random
import secrets
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, TypeVar

import structlog

from lepton_p2p.collectives.fetch import FetchServer
from lepton_p2p.collectives.rounds import Rounds
from lepton_p2p.driver import MachineDriver
from lepton_p2p.errors import (
    AddressError,
    JobMismatch,
)
from lepton_p2p.identity import PeerId, PeerInfo, join_address, short, split_address
from lepton_p2p.membership import Died, Joined, Left, Refused, SeedAnswered, SeedSilent, Suspected, Swim, Trusted
from lepton_p2p.membership.events import SwimEvent
from lepton_p2p.membership.messages import Packet
from lepton_p2p.rounds import effects as fx
from lepton_p2p.rounds.agreement import Agreement
from lepton_p2p.rounds.agreement import Event as RoundEvent
from lepton_p2p.rounds.messages import RoundMessage
from lepton_p2p.runtime.address_book import AddressBook
from lepton_p2p.runtime.admission import Applicant, obtain
from lepton_p2p.runtime.events import EventHub
from lepton_p2p.runtime.greeting import Greeting
from lepton_p2p.runtime.node_credentials import NodeCredentials
from lepton_p2p.runtime.offices import Offices, open_offices
from lepton_p2p.runtime.options import NodeOptions
from lepton_p2p.runtime.state_lock import locked
from lepton_p2p.tasks import OwnedTasks
from lepton_p2p.transport.addresses import check_exposure, expand, resolve_advertised
from lepton_p2p.transport.channels import Channels
from lepton_p2p.transport.handlers import Handlers
from lepton_p2p.transport.links.arrivals import Arrivals
from lepton_p2p.transport.links.hub import LinkHub
from lepton_p2p.transport.links.link import Link, Purpose
from lepton_p2p.transport.server import ControlServer
from lepton_p2p.transport.values import ResultInfo
from lepton_p2p.transport.wire_common import check_address

_log = structlog.get_logger(__name__)
T = TypeVar("T")
LEFT = "it left"
"""Why a member that said goodbye is not there any more: no reason for a warning."""


class Node:
    """``start(handlers)`` takes what the services offer; everything runs on the loop that called it."""

    def __init__(self, options: NodeOptions) -> None:
        self.options = options
        self.events = EventHub()
        self.tasks = OwnedTasks(self._crashed)
        self.fetch_server = FetchServer()
        self.arrivals = Arrivals()
        self.failed: asyncio.Future[None] | None = None
        self.on_met: list[Callable[[], None]] = []
        self.on_gone: list[Callable[[PeerId], None]] = []
        self.on_dropped: list[Callable[[], None]] = []
        self.founded = False
        """Whether this peer founded a lineage: it has a state to start from and needs nobody's."""
        self.left_behind = False
        """Whether the swarm has gone on without it since then."""
        self.credentials: NodeCredentials | None = None
        """What this peer shows and whom it believes; None in a swarm without credentials."""
        self.offices: Offices | None = None
        self._book = AddressBook(options.state_dir)
        self._met = asyncio.Event()
        self._stack = contextlib.AsyncExitStack()
        self._closed = False

    async def start(self, handlers: Callable[[Node], Handlers]) -> None:
        """Get credentials (if there are any to be had), bind, listen, and meet the swarm.

        Raises :class:`InsecureRefused`, :class:`PortInUse`, :class:`AddressError`, :class:`CredentialsRefused`; and
        :class:`WrongSwarm`, :class:`ProtocolMismatch` or :class:`AddressError` if that is what a seed answers to the
        first call.  Seeds that do not answer are no error: they are tried for ever.  :class:`ConfigError` if another
        peer uses the state directory.
        """
        options = self.options
        host, _ = split_address(options.listen)
        for seed in options.join:
            split_address(seed)
        applicant = Applicant(
            options.swarm, options.keys_folder, options.token, tuple(options.join), 2 * options.call_timeout
        )
        holder = await obtain(applicant, needed=options.keys is not None)
        check_exposure(host, options.insecure or holder is not None)
        if holder is not None:
            self.credentials = NodeCredentials(holder, options.keys_folder)
        self.failed = asyncio.get_running_loop().create_future()
        self.failed.add_done_callback(lambda future: future.cancelled() or future.exception())
        try:
            await self._start(host, handlers)
        except BaseException:
            await self.aclose()
            raise

    async def _start(self, host: str, handlers: Callable[[Node], Handlers]) -> None:
        options = self.options
        self._stack.enter_context(locked(options.state_dir))
        self._stack.push_async_callback(self.tasks.aclose)
        security = self.credentials.security if self.credentials is not None else None
        server = ControlServer(options.listen, swarm=options.swarm, security=security)
        bound = await server.bind()
        self._stack.push_async_callback(server.stop)
        address = await resolve_advertised(bound, seeds=options.join, advertise=options.advertise)
        try:
            me = self.credentials.id if self.credentials is not None else PeerId(secrets.token_hex(16))
            self.me = PeerInfo(me, check_address(address))
        except ValueError as error:
            raise AddressError(f"the others could not call this peer: {error}; give another --advertise") from None
        self.channels = Channels(swarm=options.swarm, me=self.me.id, security=security)
        self._stack.push_async_callback(self.channels.close)
        await Greeting(self.channels, self.credentials, options.call_timeout).to(
            options.join, others_known=bool(self._book.load())
        )
        self.hub = LinkHub(
            self.me.id,
            host=host,
            port=options.data_port,
            swarm=options.swarm,
            sealed=options.sealed or security is not None,
            heartbeat=options.patience.heartbeat,
            share_memory=options.share_memory,
        )
        self.hub.serve(Purpose.RING, self.arrivals.accept)
        self.hub.serve(Purpose.FETCH, self.fetch_server.accept)
        await self.hub.start()
        self._stack.push_async_callback(self.hub.close)
        self._make_machines()
        if self.credentials is not None:
            self.offices = open_offices(
                self.credentials,
                self.channels,
                self.tasks,
                hear=self._hear,
                news=self.swim.news,
                others=lambda: [peer for peer in self.view() if peer != self.me],
                expel=self._expel,
                fail=self.fail,
                timeout=options.call_timeout,
            )
        await server.start(handlers(self))
        self.server = server
        seeds = await expand(options.join, mine=address)
        self.agreement.unanswered = {join_address(*split_address(seed)) for seed in seeds}
        self.tasks.spawn(self._keep_book(), "keep the known members")
        self._membership.feed(lambda now: self.swim.start(now, seeds, self._book.load()))

    def _make_machines(self) -> None:
        options = self.options
        rng = random.Random(secrets.randbits(64))
        self.swim = Swim(
            self.me, options.swim, rng, notary=self.credentials.claims if self.credentials is not None else None
        )
        self._membership = MachineDriver(
            self.swim,
            send=self._send_packet,
            on_event=self._membership_event,
            on_crash=self._crashed,
            width=8,  # a packet to a peer that hangs must not hold back the next probe
        )
        self._stack.push_async_callback(self._membership.aclose)
        self.agreement = Agreement(self.me, options.agreement, rng)
        self.agreement.majority = options.partitions == "majority"
        self.rounds = Rounds(
            self.agreement,
            driver=self._rounds_driver,
            connect=self.connect,
            describe=self._describe,
            arrivals=self.arrivals,
            server=self.fetch_server,
            patience=options.patience,
            accuse=lambda peer, reason: self._membership.feed(lambda now: self.swim.accuse(now, peer, reason)),
            on_event=self._round_event,
        )
        self._stack.push_async_callback(self.rounds.aclose)

    def _rounds_driver(self, machine: Agreement, **wiring: Any) -> MachineDriver[Agreement, RoundMessage]:
        return MachineDriver(machine, send=self._send_round, on_crash=self._crashed, **wiring)

    async def aclose(self) -> None:
        """Stop everything at once, without a word to the others (see :meth:`leave`)."""
        if not self._closed:
            self._closed = True
            self.events.close()
            await self._stack.aclose()

    async def leave(self) -> None:
        """Tell the others that this peer goes; they do not wait for it."""
        if self._closed:
            return
        await self.rounds.leave(LEFT)
        self._membership.feed(self.swim.leave)
        await self._membership.flush()

    # -- what other rooms use ----------------------------------------------------------------------

    def deliver_packet(self, packet: Packet) -> None:
        """A packet of another peer's failure detector."""
        (self._hear if self.offices is None else self.offices.vetting.deliver)(packet)

    def _hear(self, packet: Packet) -> None:
        self._membership.feed(lambda now: self.swim.receive(now, packet))

    async def connect(self, peer: PeerInfo, purpose: Purpose) -> Link:
        """Open a link to ``peer``."""
        share = self.hub.propose()
        ticket = await self.channels.open_link(
            peer, purpose, share=b"" if share is None else share.public, timeout=self.options.call_timeout
        )
        return await self.hub.open(peer.id, split_address(peer.address)[0], ticket, purpose, share)

    def enter(self, *, job: str, found: bool) -> None:
        """Want to be in an epoch, of peers with the same ``job``; ``found`` starts one alone."""
        self.agreement.job = job
        self.rounds.feed(lambda now: self.agreement.begin(now, found=found))

    async def gathered(self) -> None:
        """Wait until this peer is in an epoch, and so many others as are wanted before the first round."""
        progress = self.agreement.progress
        await self.rounds.wait_for_epoch(
            lambda epoch: (
                len(epoch.members) >= self.options.min_peers
                # Or the training is under way: this peer comes late.
                or progress.completed > 0
                or progress.work > progress.origin
            )
        )

    def state_begins(self, work: int) -> None:
        """See ``training.Collective``."""
        self.rounds.feed(lambda now: self.agreement.holds(now, work))

    def state_holds(self, work: int) -> None:
        """The members' state has come to ``work`` contributions by other ways than rounds; on the loop."""
        self.rounds.feed(lambda now: self.agreement.worked(now, work))

    def fail(self, error: BaseException) -> None:
        """Something made this peer useless (wrong swarm, wrong job): whoever waits for it is told."""
        if self.failed is not None and not self.failed.done():
            self.failed.set_exception(error)

    async def unless_failed(self, work: Coroutine[Any, Any, T]) -> T:
        """The result of ``work``; if the peer turns out to be useless meanwhile, the reason is raised instead."""
        failed = self.failed
        assert failed is not None
        task = asyncio.ensure_future(work)
        try:
            await asyncio.wait((task, failed), return_when=asyncio.FIRST_COMPLETED)
            if not task.done():
                failed.result()
            return await task
        finally:
            if not task.done():
                task.cancel()
                await asyncio.wait((task,))

    def view(self) -> Sequence[PeerInfo]:
        """Whom this peer believes to be alive, itself included."""
        return [member.peer for member in self.swim.members]

    # -- sending -----------------------------------------------------------------------------------

    async def _send_packet(self, to: str, packet: Packet) -> None:
        await self.channels.deliver_packet(to, packet, timeout=self.options.call_timeout)

    async def _send_round(self, to: str, message: RoundMessage) -> None:
        await self.channels.deliver_round(to, message, timeout=self.options.call_timeout)

    async def _describe(self, holder: PeerInfo, round: int) -> ResultInfo:
        return await self.channels.result(holder, round, timeout=self.options.call_timeout)

    # -- events ------------------------------------------------------------------------------------

    def _membership_event(self, event: SwimEvent) -> None:
        match event:
            case Joined(peer=peer) | Trusted(peer=peer):
                self.rounds.feed(lambda now: self.agreement.alive(now, peer))
                self.events.publish("joined", f"{short(peer.id)} at {peer.address}", peer=peer.id)
                self._met.set()
                for met in self.on_met:
                    met()
            case Suspected(peer=peer, reason=reason):
                self.events.publish("suspected", f"{short(peer.id)}: {reason}", peer=peer.id)
            case Died(peer=peer, reason=reason):
                _log.warning("a peer is gone", peer=short(peer.id), address=peer.address, why=reason)
                self._gone(peer, reason)
            case Left(peer=peer):
                _log.info("a peer has left", peer=short(peer.id), address=peer.address)
                self._gone(peer, LEFT)
            case SeedSilent(address=address):
                _log.warning("a seed does not answer; it is tried until it does", seed=address)
                self.events.publish("seed_silent", address)
            case SeedAnswered(address=address):
                self.agreement.unanswered.discard(address)
                self.events.publish("seed_answered", address)
            case Refused():
                assert self.offices is not None  # nothing is refused where nothing is signed
                self.offices.vetting.refused(event)
            case _:
                _log.warning("others believed this peer dead (it was stalled or cut off); it is back")
                self.events.publish("declared_dead", "others believed this peer dead; it is back", peer=self.me.id)

    def _expel(self, peer: PeerId | None, reason: str) -> None:
        """``peer`` is no member any more: cut it off, and do not wait for others to notice."""
        self.hub.expel(peer, reason)
        if peer is not None:
            self._membership.feed(lambda now: self.swim.expel(now, peer, reason))

    def _gone(self, peer: PeerInfo, reason: str) -> None:
        left = reason == LEFT
        self.rounds.feed(lambda now: self.agreement.gone(now, peer.id, reason, left=left))
        self.events.publish("gone", f"{short(peer.id)}: {reason}", peer=peer.id)
        for callback in self.on_gone:
            callback(peer.id)
        if not self.swim.knows_live_at(peer.address):
            self.tasks.spawn(self.channels.forget(peer.address), f"close channels to {peer.address}")

    async def _keep_book(self) -> None:
        """Save the live members when there are new ones: once for a crowd, and not on the loop, for disks are slow."""
        while True:
            await self._met.wait()
            self._met.clear()
            await asyncio.to_thread(self._book.save, [peer for peer in self.view() if peer != self.me])

    def _round_event(self, event: RoundEvent) -> None:
        match event:
            case fx.Installed(epoch=epoch, decision=decision):
                names = " ".join(short(peer) for peer in epoch.ids)
                lost = ", ".join(f"{short(peer)} ({why})" for peer, why in decision.lost)
                if any(why != LEFT for _, why in decision.lost):
                    _log.warning("the swarm goes on without lost members", epoch=epoch.number, lost=lost)
                _log.info("new epoch", number=epoch.number, members=names)
                if epoch.number == 1:
                    self.founded, self.left_behind = True, False
                if epoch.number == 1 and self.options.join:
                    start = "its checkpoint" if decision.origin else "the initial state"
                    _log.warning(
                        f"nobody in the swarm is in an epoch that is as far: this peer founds one, from {start}"
                    )
                self.events.publish("epoch", f"epoch {epoch.number}: {names}", values={"number": epoch.number})
            case fx.Paused(present=present, of=of):
                text = f"{present} of the {of} peers that went on last are here, and more than half are needed"
                _log.warning("waiting for the majority", why=text)
                self.events.publish("paused", text, values={"present": present, "of": of})
            case fx.DroppedOut(reason=reason):
                self.left_behind = True
                for callback in self.on_dropped:
                    callback()
                self.events.publish("dropped", reason, peer=self.me.id)
            case fx.Rejected(round=number, reason=reason):
                _log.warning("a round was rejected", round=number, why=reason)
                self.events.publish("rejected", f"round {number}: {reason}", values={"round": number})
            case fx.Refused(by=by, reason=reason):
                self.fail(JobMismatch(f"{by.address} does not take this peer in: {reason}"))

    def _crashed(self, error: BaseException) -> None:
        _log.error("the peer cannot go on; this is a bug, please report it", exc_info=error)
        self.fail(error)
