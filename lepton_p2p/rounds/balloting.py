"""The dialogue by which members agree on the next epoch: prepare, promise, install.

One exchange with *all* candidates is enough, without majority and without an accept phase: nothing happens in an epoch
unless all its members installed it, since a round completes only by passing through every one of them.  (Compare the
flush of virtual synchrony, Birman and Joseph 1987; ballots as in Paxos.)
"""

from __future__ import annotations

from lepton_p2p.identity import PeerId, PeerInfo, short
from lepton_p2p.rounds import effects as fx
from lepton_p2p.rounds.core import AgreementCore
from lepton_p2p.rounds.decision import decide
from lepton_p2p.rounds.electorate import carries
from lepton_p2p.rounds.epoch import NOBODY, Ballot, Epoch
from lepton_p2p.rounds.messages import Decision, Install, Passed, Prepare, Promise, Refusal, Standing
from lepton_p2p.rounds.proposal import Proposal
from lepton_p2p.sansio import CancelTimer, Send, SetTimer

_MAX_GONE = 10_000
_DIFFERS = "what this peer holds differs from what the other members hold"
_UNITES = "two sides of a split swarm become one: this peer brings in what it has when it holds what the others hold"


class Balloting(AgreementCore):
    """Proposing, and being proposed to."""

    def _propose(self, reason: str) -> None:
        assert self.epoch is not None
        self._stop(reason)
        candidates = {m.id: m.peer for m in self.epoch.members if m.id not in self._gone}
        candidates |= self._waiting
        candidates[self.me.id] = self.me
        unites = bool(self._invited & candidates.keys())
        ballot = Ballot(max(self._promised.counter, self._heard if unites else 0) + 1, self.me.id)
        self._promised, self._bound = ballot, True
        self._proposal = Proposal(ballot, candidates, reason, unites)
        self._proposal.promised(self._report())
        self._out += [CancelTimer("propose"), CancelTimer("install")]
        self._out.append(SetTimer("promises", self._now + self._config.promise_timeout / 2))
        for peer in candidates:
            if peer != self.me.id:
                self._ask_to_promise(self._proposal, peer)
        self._finish_if_complete()

    def _ask_to_promise(self, proposal: Proposal, peer: PeerId) -> None:
        candidates = tuple(proposal.candidates.values())
        assert self.epoch is not None
        prepare = Prepare(self.me, proposal.ballot, candidates, proposal.reason, proposal.unites)
        self._out.append(Send(proposal.candidates[peer].address, prepare))

    def _on_promises_due(self, proposal: Proposal) -> None:
        """Half of the time is over: ask again, messages get lost.  All of it: go on without those that are silent."""
        if not proposal.reminded:
            proposal.reminded = True
            for peer in proposal.silent:
                self._ask_to_promise(proposal, peer)
            self._out.append(SetTimer("promises", self._now + self._config.promise_timeout / 2))
            return
        proposal.give_up_waiting(f"did not answer within {self._config.promise_timeout:g} s")
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
        self._invited.clear()
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
        epoch, decision = decide(
            proposal.ballot,
            peers,
            proposal.reports,
            lost,
            max_attempts=self._config.max_attempts,
            majority=self.majority,
        )
        for peer_info in peers.values():
            if peer_info.id != self.me.id:
                self._out.append(Send(peer_info.address, Install(self.me, epoch, decision)))
        self._install(epoch, decision)

    def _larger_stranger(self, proposal: Proposal) -> PeerInfo | None:
        """The refuser whose lineage is ahead of what this proposal could at best become."""
        number = self.epoch.number if self.epoch is not None else 0
        tag = self.epoch.tag if self.epoch is not None else 0
        paused = not carries(proposal.reports, self.progress.electorates)
        mine = Standing(len(proposal.reports), self.progress.work, number, tag, self.progress.origin, paused)
        larger = [stranger for stranger in proposal.strangers.values() if mine.yields_to(stranger[1])]
        return max(larger, key=lambda s: s[1])[0] if larger else None

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
        self._promised = Ballot(message.promised.counter, NOBODY)
        self._proposal = None
        self._out.append(CancelTimer("promises"))
        self._await_install()

    def _check_on(self, peer: PeerId | None) -> None:
        """A link to ``peer`` broke in the middle of an agreement: find out at once whether it still answers."""
        if peer is None:
            return
        proposal = self._proposal
        if proposal is not None and peer in proposal.candidates and peer not in proposal.reports:
            self._ask_to_promise(proposal, peer)
        elif proposal is None and peer == self._promised.proposer:
            self._on_no_install()

    def _on_prepare(self, message: Prepare) -> None:
        sender = message.sender
        if self.me.id not in (peer.id for peer in message.candidates):
            return
        if self.epoch is not None and message.ballot == self.epoch.ballot:
            return  # it came twice, and the epoch that it asked for is here: to promise again would install it again
        known = self.epoch is None or sender.id in self.epoch.ids or sender.id in self._fellow
        # The proposer may hold a promise from before this peer left: to promise again would confirm that one.
        known = (known or message.unites) and message.ballot != self._given_up
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
        self.held, self._owed = 0, (0, ())
        self._fellow = frozenset(epoch.ids)
        if self.me.id in decision.brought:
            self._passed.clear()
        self._passed.append(Passed(epoch.tag, decision.base))
        for peer in epoch.ids:
            self._waiting.pop(peer, None)
            if peer in self._alive:
                self._gone.pop(peer, None)
        me = next(member for member in epoch.members if member.id == self.me.id)
        brings = self.me.id in decision.brought
        newcomer = me.since == decision.base + 1 and (decision.base > 0 or brings)
        member = had_epoch and not brings
        verdict = self.progress.install(decision, newcomer=newcomer, member=member, brought=brings)
        self._emit(fx.Installed(epoch, decision))
        self._say_if_paused(epoch)
        if verdict.obsolete:
            self._emit(fx.DroppedOut(_UNITES if brings else _DIFFERS))
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

    def _say_if_paused(self, epoch: Epoch) -> None:
        lacking = [one for one in self.progress.electorates if not carries(epoch.ids, [one])]
        pause = fx.Paused(len(lacking[0].intersection(epoch.ids)), len(lacking[0])) if lacking else None
        if pause is not None and pause != self._pause:
            self._emit(pause)
        self._pause = pause

    def _lose(self, peer: PeerId, reason: str) -> None:
        if peer == self.me.id:
            return
        self._waiting.pop(peer, None)
        self._without_epoch.pop(peer, None)
        self._gone[peer] = reason
        while len(self._gone) > _MAX_GONE:
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
