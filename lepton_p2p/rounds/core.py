"""What all parts of one peer's agreement share: its state, and the effects that the current input has led to."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from dataclasses import replace
from typing import Protocol, TypeAlias

from lepton_p2p.identity import PeerId, PeerInfo
from lepton_p2p.rounds import effects as fx
from lepton_p2p.rounds.config import AgreementConfig
from lepton_p2p.rounds.electorate import Electorate, carries
from lepton_p2p.rounds.epoch import Ballot, Epoch
from lepton_p2p.rounds.messages import MAX_PASSED, Decision, Passed, Report, RoundMessage, Standing
from lepton_p2p.rounds.progress import Progress
from lepton_p2p.rounds.proposal import Proposal
from lepton_p2p.sansio import CancelTimer, Emit, Send, SetTimer

Event: TypeAlias = fx.Installed | fx.Paused | fx.DroppedOut | fx.Rejected | fx.Refused
Effect: TypeAlias = (
    Send[RoundMessage] | SetTimer | CancelTimer | Emit[Event] | fx.Halt | fx.Run | fx.Recover | fx.Accuse
)


MAJORITY = " majority"
_REMEMBERED = MAX_PASSED
"""Epochs of a lineage; who comes back after more than that comes back as a newcomer."""


class Random(Protocol):
    """The part of ``random.Random`` that is used."""

    def random(self) -> float: ...

    def choice(self, seq: list[PeerId], /) -> PeerId: ...


class AgreementCore(ABC):
    """State of one peer; ``Balloting`` and ``Meeting`` are its two dialogues, ``Agreement`` puts them together."""

    def __init__(self, me: PeerInfo, config: AgreementConfig, rng: Random, job: str = "") -> None:
        self.me = me
        self.job = job
        self.held = 0
        """The work in the checkpoint that this peer would found an epoch with (see ``Standing``); set it before
        ``begin``.  Who is in an epoch holds what that has, and needs no checkpoint any more."""
        self.unanswered: set[str] = set()
        """Where others should be that have not answered yet: members of an epoch, perhaps (see ``_founds``)."""
        self.epoch: Epoch | None = None
        self.progress = Progress()
        self.majority = False
        """Policy: of a split swarm only the side with the majority goes on; otherwise both do, and become one again.
        Set it before ``begin``."""
        self._config = config
        self._rng = rng
        self.resting = False
        """Whether it gave up its round and waits outside until it has another one, so that nobody waits for it."""
        self._seeking = False
        self._began: float | None = None
        """When it first wanted an epoch."""
        self._promised = Ballot()
        self._given_up: Ballot | None = None
        """What was promised last in a lineage that this peer has left: that report of it holds no longer."""
        self._bound = False
        self._proposal: Proposal | None = None
        self._fellow: frozenset[PeerId] = frozenset()
        self._alive: dict[PeerId, PeerInfo] = {}
        self._gone: dict[PeerId, str] = {}
        self._waiting: dict[PeerId, PeerInfo] = {}
        self._invited: set[PeerId] = set()
        """Who of those that wait is in another lineage, which is to become one with this."""
        self._passed: deque[Passed] = deque(maxlen=_REMEMBERED)
        """Epochs through which this peer's lineage has come, as far as it was there; who is in one of them is of the
        same lineage, perhaps behind."""
        self._owed: tuple[int, tuple[Electorate, ...]] = (0, ())
        """Number of the epoch that this peer dropped out of, and who had to agree then: where that has been forgotten
        (in a new swarm of some that dropped out) it holds still."""
        self._pause: fx.Paused | None = None
        self._heard = 0
        """The highest counter of a ballot in a lineage that was met: a proposal to that has to be above it."""
        self._without_epoch: dict[PeerId, int | None] = {}
        """Who said to have no epoch, and what it would found one with; None: it does not seek one."""
        self._out: list[Effect] = []
        self._now = 0.0

    @property
    def standing(self) -> Standing | None:
        """How far this peer's lineage has come; members known to be gone do not count."""
        if self.epoch is None:
            return None
        size = sum(peer not in self._gone for peer in self.epoch.ids)
        return Standing(size, self.progress.work, self.epoch.number, self.epoch.tag, self.progress.origin, self.paused)

    @property
    def purpose(self) -> str:
        """What members must have in common: the job and the policy."""
        return f"{self.job}{MAJORITY}" if self.majority else self.job

    @property
    def paused(self) -> bool:
        """Whether this epoch must wait for the majority to come back."""
        return self.epoch is not None and not carries(self.epoch.ids, self.progress.electorates)

    def _run_if_possible(self) -> None:
        if self.epoch is not None and not self._bound and not self.paused and self.progress.start_attempt():
            self._out.append(fx.Run(self.epoch, self.progress.next_round, self.progress.attempts))

    def _stop(self, reason: str) -> None:
        if self.progress.halt(reason):
            self._out.append(fx.Halt())

    def _report(self) -> Report:
        report = replace(self.progress.report(self.me.id, self.epoch), passed=tuple(self._passed))
        number, electorates = self._owed
        return report if self.epoch is not None else replace(report, number=number, electorates=electorates)

    def _broadcast(self, message: RoundMessage) -> None:
        for member in self.epoch.members if self.epoch is not None else ():
            if member.id != self.me.id:
                self._out.append(Send(member.peer.address, message))

    def _emit(self, event: Event) -> None:
        self._out.append(Emit(event))

    def _drain(self) -> list[Effect]:
        effects, self._out = self._out, []
        return effects

    # -- what the one dialogue needs of the other --------------------------------------------------

    @abstractmethod
    def _propose(self, reason: str) -> None:
        """Stop, and propose the next epoch."""

    @abstractmethod
    def _install(self, epoch: Epoch, decision: Decision) -> None:
        """Enter ``epoch`` and go on from where ``decision`` says."""

    @abstractmethod
    def _admit_waiting(self) -> None:
        """Propose the newcomers that wait, if this is the moment."""

    @abstractmethod
    def _yield(self, reason: str, towards: PeerInfo | None) -> None:
        """Give up this lineage: what it holds is obsolete; ask to be admitted elsewhere."""

    @abstractmethod
    def _seek(self) -> None:
        """Look for an epoch to be admitted to."""
