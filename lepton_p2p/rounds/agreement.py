"""Leaderless agreement on epochs, as a pure state machine.

States and what moves between them (``docs/architecture.md`` has the dialogue and why it is safe):

=========  ==========================================  =====================================================
state      meaning                                     leaves by
=========  ==========================================  =====================================================
outside    not begun, left, or gave up its round       ``begin`` -> seeking or member; ``start_round`` -> seeking
seeking    wants an epoch, has none                    ``Prepare`` -> bound; nobody has one -> founds one
member     in an epoch, idle or with a running round   ``broken``/``gone``/newcomer -> bound (proposing);
                                                       ``Prepare`` -> bound; larger lineage met -> seeking
bound      promised a ballot, stopped                  ``Install`` -> member; time-out -> bound (proposing)
=========  ==========================================  =====================================================

Nothing happens in an epoch unless all its members installed it, since a round completes only by passing
through every one of them; that is what makes one prepare/promise exchange with all candidates enough
(compare the flush of virtual synchrony, Birman and Joseph 1987; ballots as in Paxos).
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import Protocol, TypeAlias

from lepton_p2p.identity import PeerId, PeerInfo, short
from lepton_p2p.rounds import effects as fx
from lepton_p2p.rounds.config import AgreementConfig
from lepton_p2p.rounds.decision import decide
from lepton_p2p.rounds.epoch import Ballot, Epoch, Member
from lepton_p2p.rounds.messages import (
    Admit,
    AdmitReply,
    Announce,
    Decision,
    Install,
    Leaving,
    Prepare,
    Promise,
    Refusal,
    Report,
    RoundMessage,
    Standing,
)
from lepton_p2p.rounds.progress import Progress
from lepton_p2p.rounds.proposal import Proposal
from lepton_p2p.sansio import CancelTimer, Emit, Send, SetTimer

Event: TypeAlias = fx.Installed | fx.DroppedOut | fx.Rejected | fx.Refused
Effect: TypeAlias = (
    Send[RoundMessage] | SetTimer | CancelTimer | Emit[Event] | fx.Halt | fx.Run | fx.Recover | fx.Accuse
)


class Random(Protocol):
    """The part of ``random.Random`` that is used."""

    def random(self) -> float: ...

    def choice(self, seq: list[PeerId], /) -> PeerId: ...


class Agreement:
    """One peer's side.  Every input returns the effects to perform, in order, before the next input."""

    def __init__(self, me: PeerInfo, config: AgreementConfig, rng: Random, job: str = "") -> None:
        self.me = me
        self.job = job
        self.epoch: Epoch | None = None
        self.progress = Progress()
        self._config = config
        self._rng = rng
        self.resting = False
        """Whether it gave up its round and waits outside until it has another one, so that nobody waits for it."""
        self._seeking = False
        self._promised = Ballot()
        self._bound = False
        self._proposal: Proposal | None = None
        self._fellow: frozenset[PeerId] = frozenset()
        self._alive: dict[PeerId, PeerInfo] = {}
        self._gone: dict[PeerId, str] = {}
        self._waiting: dict[PeerId, PeerInfo] = {}
        self._without_epoch: dict[PeerId, bool] = {}
        self._out: list[Effect] = []
        self._now = 0.0

    # -- what the peer itself does -----------------------------------------------------------------

    def begin(self, now: float, *, found: bool) -> list[Effect]:
        """Want an epoch from now on; ``found`` starts one alone at once, otherwise one is sought."""
        self._now = now
        self.resting = False
        if found:
            self._found()
        else:
            self._seek()
        return self._drain()

    def start_round(self, now: float, schema: int, state: int = 0) -> list[Effect]:
        """The caller has handed in its input for the next round; at most one is pending at a time.

        ``state``: 64-bit digest of what the input was made from (0: none); members that differ from the
        majority are told that what they hold is obsolete.
        """
        self._now = now
        if self.progress.owed_rejections:
            number, reason = self.progress.owed_rejections.popleft()
            self._emit(fx.Rejected(number, reason))
            return self._drain()
        self.progress.hand_in(schema, state)
        if self.resting:
            self.resting = False
            self._seek()
        self._run_if_possible()
        return self._drain()

    def withdraw(self, now: float, reason: str) -> list[Effect]:
        """The caller gave up its pending round: this peer drops out of the epoch until the next ``start_round``."""
        self._now = now
        if self.progress.schema is not None:
            self._stop(reason)
            self.progress.take_back()
            if self.epoch is not None and len(self.epoch.members) > 1:
                self._yield(reason, towards=None)
                self._seeking, self.resting = False, True
                self._out.append(CancelTimer("seek"))
        return self._drain()

    def completed(self, now: float, tag: int, digest: int, contributors: int) -> list[Effect]:
        """The running attempt of epoch ``tag`` delivered its result."""
        self._now = now
        if self.epoch is None or self.epoch.tag != tag or not self.progress.running:
            return []
        self.progress.decide_round(digest, contributors)
        self._admit_waiting()
        return self._drain()

    def broken(self, now: float, tag: int, reason: str, suspect: PeerId | None) -> list[Effect]:
        """The running attempt (or an idle ring link) of epoch ``tag`` broke."""
        self._now = now
        if self.epoch is None or self.epoch.tag != tag:
            return []
        if suspect is not None:
            self._out.append(fx.Accuse(suspect, reason))
        if self._bound:
            self._check_on(suspect)
        else:
            self._stop(reason)
            self._propose_soon(excluding=suspect)
        return self._drain()

    def recovered(self, now: float, round: int, digest: int, contributors: int) -> list[Effect]:
        """The result of ``round`` was fetched from a holder and checked."""
        self._now = now
        if self.progress.recovering == round:
            self.progress.recovered(digest, contributors)
            self._admit_waiting()
        return self._drain()

    def leave(self, now: float, reason: str) -> list[Effect]:
        """Go: the others form the next epoch without this peer."""
        self._now = now
        if self.epoch is not None:
            self._broadcast(Leaving(self.me, reason))
        self._stop(reason)
        self.epoch, self._seeking, self._proposal, self._bound = None, False, None, False
        for key in ("seek", "promises", "install", "propose", "announce"):
            self._out.append(CancelTimer(key))
        return self._drain()

    # -- what membership says ----------------------------------------------------------------------

    def alive(self, now: float, peer: PeerInfo) -> list[Effect]:
        """``peer`` is a live member of the swarm (joined, or trusted again)."""
        self._now = now
        self._alive[peer.id] = peer
        self._gone.pop(peer.id, None)
        return self._drain()

    def gone(self, now: float, peer: PeerId, reason: str) -> list[Effect]:
        """``peer`` died or left: it is nobody to wait for."""
        self._now = now
        self._alive.pop(peer, None)
        self._lose(peer, reason)
        return self._drain()

    # -- what the network and the clock say --------------------------------------------------------

    def receive(self, now: float, message: RoundMessage) -> list[Effect]:
        """Take one message; unknown or outdated ones change nothing."""
        self._now = now
        match message:
            case Prepare():
                self._on_prepare(message)
            case Promise():
                self._on_promise(message)
            case Refusal():
                self._on_refusal(message)
            case Install():
                self._on_install(message)
            case Admit():
                self._on_admit(message)
            case AdmitReply():
                self._on_admit_reply(message)
            case Announce():
                self._on_announce(message)
            case Leaving():
                self._lose(message.sender.id, message.reason)
        return self._drain()

    def send_failed(self, now: float, to: str, message: RoundMessage) -> list[Effect]:
        """``message`` certainly did not arrive (connection refused): do not wait for its answer."""
        self._now = now
        proposal = self._proposal
        if isinstance(message, Prepare) and proposal is not None and proposal.ballot == message.ballot:
            for peer in proposal.candidates.values():
                if peer.address == to:
                    proposal.unavailable(peer.id, f"nobody answers at {to}")
            self._finish_if_complete()
        return self._drain()

    def timer(self, now: float, key: Hashable) -> list[Effect]:
        """A timer that was set by an effect is due."""
        self._now = now
        if key == "seek" and self._seeking and not self._bound:
            self._seek()
        elif key == "promises" and self._proposal is not None:
            self._proposal.give_up_waiting(f"did not answer within {self._config.promise_timeout:g} s")
            self._finish_if_complete()
        elif key == "install" and self._bound:
            self._on_no_install()
        elif key == "propose" and self.epoch is not None and not self._bound:
            self._propose(self.progress.broken or "a member is gone or waits to be admitted")
        elif key == "announce" and self.epoch is not None:
            self._announce()
        return self._drain()

    # -- proposing ---------------------------------------------------------------------------------

    @property
    def standing(self) -> Standing | None:
        """How far this peer's lineage has come; members known to be gone do not count."""
        if self.epoch is None:
            return None
        size = sum(peer not in self._gone for peer in self.epoch.ids)
        return Standing(size, self.progress.work, self.epoch.number, self.epoch.tag)

    def _propose(self, reason: str) -> None:
        assert self.epoch is not None
        self._stop(reason)
        candidates = {m.id: m.peer for m in self.epoch.members if m.id not in self._gone}
        candidates |= self._waiting
        candidates[self.me.id] = self.me
        ballot = Ballot(self._promised.counter + 1, self.me.id)
        self._promised, self._bound = ballot, True
        self._proposal = Proposal(ballot, candidates, reason)
        self._proposal.promised(self._report())
        self._out += [CancelTimer("propose"), CancelTimer("install")]
        self._out.append(SetTimer("promises", self._now + self._config.promise_timeout))
        prepare = Prepare(self.me, ballot, tuple(candidates.values()), reason)
        for peer in candidates.values():
            if peer.id != self.me.id:
                self._out.append(Send(peer.address, prepare))
        self._finish_if_complete()

    def _propose_soon(self, excluding: PeerId | None = None) -> None:
        """Propose after a wait that grows with this peer's rank, so that usually one member proposes."""
        assert self.epoch is not None
        ranked = [peer for peer in self.epoch.ids if peer not in self._gone and peer != excluding]
        rank = ranked.index(self.me.id) if self.me.id in ranked else len(ranked)
        if rank == 0:
            self._propose(self.progress.broken or "a member is gone or waits to be admitted")
        else:
            self._out.append(SetTimer("propose", self._now + rank * self._config.stagger))

    def _finish_if_complete(self) -> None:
        proposal = self._proposal
        if proposal is None or not proposal.complete:
            return
        self._proposal = None
        self._out.append(CancelTimer("promises"))
        peers = {peer: proposal.candidates[peer] for peer in proposal.reports}
        if (larger := self._larger_stranger(proposal)) is not None:
            self._yield("the swarm went on without this peer", towards=larger)
            return
        before = self.epoch.ids if self.epoch is not None else ()
        reasons = self._gone | proposal.missing
        lost = [(peer, reasons[peer]) for peer in before if peer in reasons and peer not in peers]
        for peer, reason in proposal.missing.items():
            self._waiting.pop(peer, None)
            self._out.append(fx.Accuse(peer, reason))
        epoch, decision = decide(proposal.ballot, peers, proposal.reports, lost, max_attempts=self._config.max_attempts)
        for peer_info in peers.values():
            if peer_info.id != self.me.id:
                self._out.append(Send(peer_info.address, Install(self.me, epoch, decision)))
        self._install(epoch, decision)

    def _larger_stranger(self, proposal: Proposal) -> PeerInfo | None:
        """The refuser whose lineage is ahead of what this proposal could at best become."""
        number = self.epoch.number if self.epoch is not None else 0
        tag = self.epoch.tag if self.epoch is not None else 0
        mine = Standing(len(proposal.reports), self.progress.work, number, tag)
        peer, standing = max(proposal.strangers.values(), key=lambda s: s[1], default=(None, mine))
        return peer if standing > mine else None

    def _on_promise(self, message: Promise) -> None:
        proposal = self._proposal
        if proposal is not None and proposal.ballot == message.ballot and message.report.peer == message.sender.id:
            proposal.promised(message.report)
            self._finish_if_complete()

    def _on_refusal(self, message: Refusal) -> None:
        proposal = self._proposal
        if proposal is None or proposal.ballot != message.ballot:
            return
        sender = message.sender
        if message.stranger:
            if message.standing is not None:
                proposal.strangers[sender.id] = (sender, message.standing)
            proposal.unavailable(sender.id, "is in another epoch" if message.standing else "has left the epoch")
            self._finish_if_complete()
            return
        if message.promised <= self._promised:
            return
        # Somebody proposes with a higher ballot: wait for it, and come back above it if nothing follows.
        self._promised = Ballot(message.promised.counter, PeerId(""))
        self._proposal = None
        self._out.append(CancelTimer("promises"))
        self._await_install()

    # -- being proposed to -------------------------------------------------------------------------

    def _on_prepare(self, message: Prepare) -> None:
        sender = message.sender
        if self.me.id not in (peer.id for peer in message.candidates):
            return
        known = self.epoch is None or sender.id in self.epoch.ids or sender.id in self._fellow
        if not known or (self.epoch is None and not self._seeking):
            stranger = Refusal(self.me, message.ballot, self._promised, True, self.standing)
            self._out.append(Send(sender.address, stranger))
            return
        if message.ballot < self._promised:
            refusal = Refusal(self.me, message.ballot, self._promised, False, self.standing)
            self._out.append(Send(sender.address, refusal))
            return
        self._stop(message.reason)
        self._promised, self._bound, self._proposal = message.ballot, True, None
        self._fellow = frozenset(peer.id for peer in message.candidates)
        self._out += [CancelTimer("propose"), CancelTimer("promises")]
        self._await_install()
        self._out.append(Send(sender.address, Promise(self.me, message.ballot, self._report())))

    def _check_on(self, peer: PeerId | None) -> None:
        """A link to ``peer`` broke in the middle of an agreement: find out at once whether it still answers."""
        if peer is None:
            return
        proposal = self._proposal
        if proposal is not None and peer in proposal.candidates and peer not in proposal.reports:
            prepare = Prepare(self.me, proposal.ballot, tuple(proposal.candidates.values()), proposal.reason)
            self._out.append(Send(proposal.candidates[peer].address, prepare))
        elif proposal is None and peer == self._promised.proposer:
            self._on_no_install()

    def _await_install(self) -> None:
        # A random share on top, so that members bound to a dead proposer do not all propose at once.
        wait = self._config.install_timeout + self._rng.random() * 4 * self._config.stagger
        self._out.append(SetTimer("install", self._now + wait))

    def _on_no_install(self) -> None:
        if self.epoch is None:
            self._bound = False
            self._seek()
        else:
            self._propose("the proposed epoch never came")

    def _on_install(self, message: Install) -> None:
        epoch = message.epoch
        if self._bound and epoch.ballot == self._promised and self.me.id in epoch.ids:
            self._install(epoch, message.decision)

    def _install(self, epoch: Epoch, decision: Decision) -> None:
        self._out += [CancelTimer("install"), CancelTimer("propose"), CancelTimer("seek")]
        had_epoch = self.epoch is not None
        self.epoch, self._bound, self._seeking = epoch, False, False
        self._without_epoch.clear()
        self._fellow = frozenset(epoch.ids)
        for peer in epoch.ids:
            self._waiting.pop(peer, None)
            if peer in self._alive:
                self._gone.pop(peer, None)
        me = next(member for member in epoch.members if member.id == self.me.id)
        newcomer = me.since == decision.base + 1 and decision.base > 0
        verdict = self.progress.install(decision, newcomer=newcomer, member=had_epoch)
        self._emit(fx.Installed(epoch, decision))
        if verdict.obsolete:
            self._emit(fx.DroppedOut("what this peer holds differs from what the other members hold"))
        if verdict.rejected:
            self._emit(fx.Rejected(decision.base, verdict.rejected))
        if self.progress.recovering:
            holders = tuple(m.peer for m in epoch.members if m.id in decision.holders)
            self._out.append(fx.Recover(epoch, decision.base, decision.digest, holders))
        self._out.append(SetTimer("announce", self._now + self._config.announce_interval))
        if any(peer in self._gone for peer in epoch.ids):
            self._propose_soon()
        else:
            self._run_if_possible()
            self._admit_waiting()

    def _run_if_possible(self) -> None:
        if self.epoch is not None and not self._bound and self.progress.start_attempt():
            self._out.append(fx.Run(self.epoch, self.progress.next_round, self.progress.attempts))

    def _stop(self, reason: str) -> None:
        if self.progress.halt(reason):
            self._out.append(fx.Halt())

    def _report(self) -> Report:
        return self.progress.report(self.me.id, self.epoch)

    # -- members that go and come ------------------------------------------------------------------

    def _lose(self, peer: PeerId, reason: str) -> None:
        if peer == self.me.id:
            return
        self._waiting.pop(peer, None)
        self._without_epoch.pop(peer, None)
        self._gone[peer] = reason
        while len(self._gone) > 10_000:
            self._gone.pop(next(iter(self._gone)))
        if self._proposal is not None:
            self._proposal.unavailable(peer, reason)
            self._finish_if_complete()
        elif self._bound and peer == self._promised.proposer:
            self._on_no_install()
        elif self.epoch is not None and peer in self.epoch.ids and not self._bound:
            self._propose_soon()

    def _admit_waiting(self) -> None:
        """At a round boundary (or when idle), propose the newcomers that wait."""
        if self._waiting and self.epoch is not None and not self._bound and not self.progress.busy:
            self._propose("newcomers: " + ", ".join(short(peer) for peer in self._waiting))

    def _on_admit(self, message: Admit) -> None:
        sender = message.sender
        if sender.id == self.me.id:
            return
        if self.epoch is None:
            self._out.append(Send(sender.address, AdmitReply(self.me, False, "", self._seeking)))
            return
        if message.job != self.job:
            reason = f"this swarm runs job {self.job or 'none'}, the peer brought {message.job or 'none'}"
            self._out.append(Send(sender.address, AdmitReply(self.me, False, reason, False)))
            return
        self._gone.pop(sender.id, None)
        self._waiting[sender.id] = sender
        self._out.append(Send(sender.address, AdmitReply(self.me, True, "", False)))
        if sender.id in self.epoch.ids and not self._bound:
            # A member that asks to be admitted has dropped out: the ring cannot close without a new epoch.
            self._propose(f"{short(sender.id)} starts anew")
        else:
            self._admit_waiting()

    def _announce(self) -> None:
        """Tell live peers outside the epoch where it stands; the first member that is not gone does it."""
        assert self.epoch is not None
        standing = self.standing
        present = [peer for peer in self.epoch.ids if peer not in self._gone]
        if standing is not None and present and present[0] == self.me.id:
            outside = [p for p in self._alive.values() if p.id not in self.epoch.ids and p.id not in self._waiting]
            for peer in outside:
                self._out.append(Send(peer.address, Announce(self.me, standing, self.job)))
        self._out.append(SetTimer("announce", self._now + self._config.announce_interval))

    def _on_announce(self, message: Announce) -> None:
        sender = message.sender
        if self._bound or message.job != self.job:
            return
        if self.epoch is None:
            if self._seeking:
                self._ask(sender)
            return
        if sender.id in self.epoch.ids:
            if message.standing.tag != self.epoch.tag and message.standing.number >= self.epoch.number:
                # A fellow member is in a later epoch without us: only proposing tells where we stand.
                self._propose(f"{short(sender.id)} is in another epoch")
            return
        mine = self.standing
        assert mine is not None
        if message.standing > mine:
            self._yield("a larger swarm was met", towards=sender)
        else:
            self._out.append(Send(sender.address, Announce(self.me, mine, self.job)))

    # -- without an epoch --------------------------------------------------------------------------

    def _found(self) -> None:
        self._seeking = False
        ballot = Ballot(self._promised.counter + 1, self.me.id)
        self._promised = ballot
        self._install(Epoch(1, ballot, (Member(self.me, 1),)), Decision(0, 0, (), 0))

    def _yield(self, reason: str, towards: PeerInfo | None) -> None:
        """Give up this lineage: what it holds is obsolete; ask to be admitted elsewhere."""
        self._broadcast(Leaving(self.me, reason))
        self._stop(reason)
        self.epoch, self._bound, self._proposal = None, False, None
        self._waiting.clear()
        self._out += [CancelTimer("install"), CancelTimer("propose"), CancelTimer("announce"), CancelTimer("promises")]
        self.progress.forget()
        self._emit(fx.DroppedOut(reason))
        self._seeking = True
        if towards is not None:
            self._ask(towards)
        self._out.append(SetTimer("seek", self._now + self._config.seek_interval))

    def _seek(self) -> None:
        """Ask one live peer; if all of them seek too, the lowest id founds the first epoch."""
        self._seeking = True
        others = [peer for peer in self._alive if peer not in self._gone]
        seekers = {peer for peer, seeking in self._without_epoch.items() if seeking}
        if others and all(peer in self._without_epoch for peer in others) and self.me.id < min(seekers, default="~"):
            self._found()
            return
        unasked = [peer for peer in others if peer not in self._without_epoch]
        if others:
            self._ask(self._alive[self._rng.choice(unasked or others)])
            if not unasked:
                self._without_epoch.clear()
        self._out.append(SetTimer("seek", self._now + self._config.seek_interval))

    def _ask(self, peer: PeerInfo) -> None:
        self._out.append(Send(peer.address, Admit(self.me, self.job)))

    def _on_admit_reply(self, message: AdmitReply) -> None:
        if not self._seeking or self._bound:
            return
        if message.queued:
            self._out.append(SetTimer("seek", self._now + 2 * self._config.promise_timeout))
        elif message.reason:
            self._emit(fx.Refused(message.sender, message.reason))
        else:
            self._without_epoch[message.sender.id] = message.seeking
            if all(peer in self._without_epoch for peer in self._alive):
                self._seek()

    # -- helpers -----------------------------------------------------------------------------------

    def _broadcast(self, message: RoundMessage) -> None:
        for member in self.epoch.members if self.epoch is not None else ():
            if member.id != self.me.id:
                self._out.append(Send(member.peer.address, message))

    def _emit(self, event: Event) -> None:
        self._out.append(Emit(event))

    def _drain(self) -> list[Effect]:
        effects, self._out = self._out, []
        return effects
