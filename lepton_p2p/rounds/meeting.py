"""How peers without a common epoch come together: seeking, admitting, founding, and lineages that meet."""

from __future__ import annotations

from lepton_p2p.identity import PeerInfo, short
from lepton_p2p.rounds import effects as fx
from lepton_p2p.rounds.core import MAJORITY, AgreementCore
from lepton_p2p.rounds.epoch import Ballot, Epoch, Member
from lepton_p2p.rounds.messages import Admit, AdmitReply, Announce, Decision, Leaving, Unite
from lepton_p2p.sansio import CancelTimer, Send, SetTimer

TOLD_AT_ONCE = 16
"""Outsiders that hear one announcement, at most; crowds take turns.  Each costs a connection, and may be made up."""


class Meeting(AgreementCore):
    """A peer without an epoch asks live peers in turn to admit it; if nobody has one, the peer with the most work in
    its checkpoint founds it, the lowest id of several; later, if some whom it should join have not answered yet.

    The first member of an epoch announces it to live peers outside.  Two lineages that meet so become one: a member
    of the smaller one asks the announcer to propose an epoch of both, and the heavier one prevails in that (see
    ``decision.py``).  One that has nothing to bring yields instead, peer by peer.  A peer that finds an epoch which has
    not come as far as its own checkpoint founds another one, and the two lineages meet.
    """

    def _on_admit(self, message: Admit) -> None:
        sender = message.sender
        if sender.id == self.me.id:
            return
        if self.epoch is None:
            self._out.append(Send(sender.address, AdmitReply(self.me, False, "", self._seeking, self.held)))
            return
        if message.job != self.purpose:
            reason = self._why_not(message.job)
            self._out.append(Send(sender.address, AdmitReply(self.me, False, reason, False)))
            return
        if message.held > self.progress.work:
            behind = AdmitReply(self.me, False, "", False, self.progress.work, behind=True)
            self._out.append(Send(sender.address, behind))
            return
        self._gone.pop(sender.id, None)
        self._waiting[sender.id] = sender
        self._out.append(Send(sender.address, AdmitReply(self.me, True, "", False)))
        if sender.id in self.epoch.ids and not self._bound:
            # A member that asks to be admitted has dropped out: the ring cannot close without a new epoch.
            self._propose(f"{short(sender.id)} starts anew")
        else:
            self._admit_waiting()

    def _why_not(self, purpose: str) -> str:
        if purpose.removesuffix(MAJORITY) != self.job:
            return (
                f"this swarm runs job {self.job or 'none'}, the peer brought {purpose.removesuffix(MAJORITY) or 'none'}"
            )
        mine, theirs = ("majority", "continue") if self.majority else ("continue", "majority")
        return f"this swarm runs with partitions={mine}, the peer with partitions={theirs}: use the same on all peers"

    def _announce(self) -> None:
        """Tell live peers outside the epoch where it stands; the first member that is not gone does it."""
        assert self.epoch is not None
        standing = self.standing
        present = [peer for peer in self.epoch.ids if peer not in self._gone]
        if standing is not None and present and present[0] == self.me.id:
            outside = [p for p in self._alive.values() if p.id not in self.epoch.ids and p.id not in self._waiting]
            if len(outside) > TOLD_AT_ONCE:
                first = int(self._rng.random() * len(outside))
                outside = (outside[first:] + outside[:first])[:TOLD_AT_ONCE]
            for peer in outside:
                self._out.append(Send(peer.address, Announce(self.me, standing, self.purpose, self._promised)))
        self._out.append(SetTimer("announce", self._now + self._config.announce_interval))

    def _on_announce(self, message: Announce) -> None:
        sender = message.sender
        if self._bound or message.job != self.purpose:
            return
        if self.epoch is None:
            if self._seeking:
                self._ask(sender)
            return
        if sender.id in self.epoch.ids:
            tag, number = message.standing.tag, message.standing.number
            if message.promised is not None and message.promised <= self.epoch.ballot:
                return  # the sender said it before it was in this epoch: whoever goes elsewhere promises more
            if tag != self.epoch.tag and (number >= self.epoch.number or tag not in {one.tag for one in self._passed}):
                # A fellow member is in a later epoch, or another lineage, without us: proposing tells where we stand.
                self._propose(f"{short(sender.id)} is in another epoch")
            return
        mine, theirs = self.standing, message.standing
        assert mine is not None
        if not mine.yields_to(theirs):
            self._out.append(Send(sender.address, Announce(self.me, mine, self.purpose, self._promised)))
        elif mine.work and not mine.hollow_beside(theirs):
            present = tuple(member.peer for member in self.epoch.members if member.id not in self._gone)
            self._out.append(Send(sender.address, Unite(self.me, present, self.purpose, self._promised.counter)))
        else:
            self._yield("a larger swarm was met", towards=sender)

    def _on_unite(self, message: Unite) -> None:
        """The members of another lineage would be members of this one too, with what they did."""
        if self.epoch is None or self._bound or message.job != self.purpose or message.sender.id in self.epoch.ids:
            return
        strangers = [peer for peer in message.members if peer.id not in self.epoch.ids]
        self._heard = max(self._heard, message.counter)
        for peer in strangers:
            self._gone.pop(peer.id, None)
            self._waiting[peer.id] = peer
        self._invited |= {peer.id for peer in strangers}
        if len(strangers) < len(message.members):
            # A member has gone over to the other lineage: the ring cannot close without a new epoch.
            self._propose("a member is in another lineage")
        else:
            self._admit_waiting()

    def _found(self) -> None:
        self._seeking = False
        ballot = Ballot(self._promised.counter + 1, self.me.id)
        self._promised = ballot
        electorates = (self._owed[1] or (frozenset({self.me.id}),)) if self.majority else ()
        decision = Decision(0, 0, (), self.held, origin=self.held, electorates=electorates)
        self._install(Epoch(1, ballot, (Member(self.me, 1),)), decision)

    def _yield(self, reason: str, towards: PeerInfo | None) -> None:
        """Give up this lineage: what it holds is obsolete; ask to be admitted elsewhere."""
        number = self.epoch.number if self.epoch is not None else 0
        self._owed = number, self.progress.electorates
        self._broadcast(Leaving(self.me, reason, number))
        self._stop(reason)
        self.epoch, self._bound, self._proposal, self._given_up = None, False, None, self._promised
        self._waiting.clear()
        self._passed.clear()
        self._out += [CancelTimer("install"), CancelTimer("propose"), CancelTimer("announce"), CancelTimer("promises")]
        self.progress.forget()
        self._emit(fx.DroppedOut(reason))
        self._seeking = True
        if towards is not None:
            self._ask(towards)
        self._out.append(SetTimer("seek", self._now + self._config.seek_interval))

    def _seek(self) -> None:
        """Ask one live peer; if all of them seek too, who holds the most, of several the lowest id, founds the first
        epoch.

        Live is who lives, whether it said goodbye to an epoch or not: if all have left it, they must meet again.
        """
        self._seeking = True
        others = list(self._alive)
        if self._founds():
            self._found()
            return
        unasked = [peer for peer in others if peer not in self._without_epoch]
        if others:
            self._ask(self._alive[self._rng.choice(unasked or others)])
            if not unasked:
                self._without_epoch.clear()
        self._out.append(SetTimer("seek", self._now + self._config.seek_interval))

    def _founds(self) -> bool:
        """Whether it is for this peer to found an epoch, as nobody it knows has one.

        Newcomers that see each other before they see the swarm must not begin a training beside that of the swarm:
        while some of those that this peer was told of have not answered, it waits, but not for ever.
        """
        if self.unanswered and self._began is not None and self._now < self._began + self._config.founding_patience:
            return False
        others = list(self._alive)
        seekers = [(-held, peer) for peer, held in self._without_epoch.items() if held is not None]
        mine = (-self.held, self.me.id)
        return bool(others) and all(p in self._without_epoch for p in others) and all(mine < other for other in seekers)

    def _ask(self, peer: PeerInfo) -> None:
        self._out.append(Send(peer.address, Admit(self.me, self.purpose, self.held)))

    def _on_admit_reply(self, message: AdmitReply) -> None:
        if not self._seeking or self._bound:
            return
        if message.queued:
            self._out.append(SetTimer("seek", self._now + 2 * self._config.promise_timeout))
        elif message.reason:
            self._emit(fx.Refused(message.sender, message.reason))
        elif message.behind:
            if self.held > message.held:
                self._found()
        else:
            self._without_epoch[message.sender.id] = message.held if message.seeking else None
            if all(peer in self._without_epoch for peer in self._alive):
                self._seek()
