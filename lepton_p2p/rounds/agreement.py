"""Leaderless agreement on epochs, as a pure state machine.

States and what moves between them (``docs/architecture.md`` has the dialogue and why it is safe):

=========  ==========================================  =====================================================
state      meaning                                     leaves by
=========  ==========================================  =====================================================
outside    not begun, left, or gave up its round       ``begin`` -> seeking or member; ``start_round`` -> seeking
seeking    wants an epoch, has none                    ``Prepare`` -> bound; nobody has one -> founds one
member     in an epoch, idle or with a running round   ``broken``/``gone``/newcomer -> bound (proposing);
                                                       ``Prepare`` -> bound; another lineage met -> seeking, or
                       both stay members and one proposes an epoch of both
bound      promised a ballot, stopped                  ``Install`` -> member; time-out -> bound (proposing)
=========  ==========================================  =====================================================
"""

from __future__ import annotations

from collections.abc import Hashable

from lepton_p2p.identity import PeerId, PeerInfo
from lepton_p2p.rounds import effects as fx
from lepton_p2p.rounds.balloting import Balloting
from lepton_p2p.rounds.core import Effect, Event, Random
from lepton_p2p.rounds.electorate import without
from lepton_p2p.rounds.meeting import Meeting
from lepton_p2p.rounds.messages import (
    Admit,
    AdmitReply,
    Announce,
    Install,
    Leaving,
    Prepare,
    Promise,
    Refusal,
    RoundMessage,
    Unite,
)
from lepton_p2p.sansio import CancelTimer

__all__ = ["Agreement", "Effect", "Event", "Random"]


class Agreement(Balloting, Meeting):
    """One peer's side.  Every input returns the effects to perform, in order, before the next input."""

    # -- what the peer itself does -----------------------------------------------------------------

    def begin(self, now: float, *, found: bool) -> list[Effect]:
        """Want an epoch from now on; ``found`` starts one alone at once, otherwise one is sought."""
        self._now = now
        self._began = now if self._began is None else self._began
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
        self._all_have_installed()
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

    def worked(self, now: float, work: int) -> list[Effect]:
        """The training has come so far by other ways than rounds: without any, or by what another side has done."""
        self._now = now
        if self.epoch is not None:
            self.progress.worked(work)
        return self._drain()

    def holds(self, now: float, work: int) -> list[Effect]:
        """The members agree that their state begins with ``work`` contributions.

        0: nobody holds what the rounds have led to, and the lineage yields to any other one.
        """
        self._now = now
        if self.epoch is not None:
            self.progress.begin(work)
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

    def gone(self, now: float, peer: PeerId, reason: str, *, left: bool = False) -> list[Effect]:
        """``peer`` died or ``left``: it is nobody to wait for."""
        self._now = now
        self._alive.pop(peer, None)
        if left:
            self._let_go(peer)
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
            case Unite():
                self._on_unite(message)
            case Leaving():
                if not message.epoch:
                    self._let_go(message.sender.id)
                if not message.epoch or self.epoch is None or self.epoch.number <= message.epoch:
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

    def _all_have_installed(self) -> None:
        """A round was decided in this epoch: from now on its members alone have to agree."""
        if self.majority and self.epoch is not None:
            self.progress.electorates = (frozenset(self.epoch.ids),)

    def _let_go(self, peer: PeerId) -> None:
        """``peer`` does not want to be asked any more."""
        self.progress.electorates = without(self.progress.electorates, peer)
        self._run_if_possible()

    def timer(self, now: float, key: Hashable) -> list[Effect]:
        """A timer that was set by an effect is due."""
        self._now = now
        if key == "seek" and self._seeking and not self._bound:
            self._seek()
        elif key == "promises" and self._proposal is not None:
            self._on_promises_due(self._proposal)
        elif key == "install" and self._bound:
            self._on_no_install()
        elif key == "propose" and self.epoch is not None and not self._bound:
            self._propose(self.progress.broken or "a member is gone or waits to be admitted")
        elif key == "announce" and self.epoch is not None:
            self._announce()
        return self._drain()
