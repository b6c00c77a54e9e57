"""How far one peer is: the last decided round, the pending input, the attempts at it.  Pure bookkeeping."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from lepton_p2p.identity import PeerId
from lepton_p2p.rounds.electorate import Electorate
from lepton_p2p.rounds.epoch import Epoch
from lepton_p2p.rounds.messages import Decision, Report


@dataclass(frozen=True, slots=True)
class Verdict:
    """What an installed decision means for this peer."""

    obsolete: bool = False
    rejected: str = ""


class Progress:
    """The round counter of one peer in one lineage.

    ``schema`` is that of the pending input (None: the caller has handed in nothing) and ``state`` the caller's
    digest of what it was made from (0: it does not say).  ``completed`` is the last decided round; ``digest`` that
    of its result (0: not held); ``rejected`` why it has none.  ``work`` and ``origin``: see ``Standing``; ``told``: the
    work in what the caller holds, as far as it has told it.  ``electorates``: see ``electorate.py`` (none with policy
    continue).
    """

    def __init__(self) -> None:
        self.completed = 0
        self.digest = 0
        self.rejected = ""
        self.work = 0
        self.origin = 0
        self.told = 0
        self._begun: tuple[int, int] | None = None
        """The round with whose result, as the caller has told, the lineage's state begins, and the work before that."""
        self.electorates: tuple[Electorate, ...] = ()
        self.schema: int | None = None
        self.state = 0
        self.attempts = 0
        self.broken = ""
        self.running = False
        self.recovering = 0
        self.owed_rejections: deque[tuple[int, str]] = deque()

    @property
    def next_round(self) -> int:
        return self.completed + 1

    @property
    def busy(self) -> bool:
        """Whether a round is between its start and its decision here."""
        return self.running or self.recovering != 0

    def hand_in(self, schema: int, state: int) -> None:
        """The caller's input for the next round is there."""
        if self.schema is not None:
            raise RuntimeError("a round is pending already: rounds are started one at a time")
        self.schema, self.state = schema, state

    def take_back(self) -> None:
        """The caller withdrew its input."""
        self.schema, self.state, self.attempts, self.broken = None, 0, 0, ""

    def start_attempt(self) -> bool:
        """Whether an attempt can start now; if so it counts as started."""
        if self.schema is None or self.busy:
            return False
        self.running = True
        self.attempts += 1
        return True

    def halt(self, reason: str) -> bool:
        """Stop; returns whether something was running (an attempt or a recovery)."""
        was = self.busy
        if self.running:
            self.broken = reason
        self.running, self.recovering = False, 0
        return was

    def begin(self, work: int) -> None:
        """The lineage's state, from the round decided last, is one with so much work in it."""
        self._begun = self.completed, self.work
        self.work = self.origin = self.told = work

    def worked(self, work: int) -> None:
        """The caller's state has come to ``work``."""
        self.told = work
        self.work = max(self.work, work)

    def decide_round(self, digest: int, contributors: int) -> None:
        """The pending round has a result, and this peer holds it."""
        self.completed += 1
        self.digest, self.rejected = digest, ""
        self.work += contributors
        self.running = False
        self.take_back()

    def recovered(self, digest: int, contributors: int) -> None:
        """The round that others had finished was fetched from them; ``work`` came with the decision."""
        self.recovering = 0
        work = self.work
        self.decide_round(digest, contributors)
        self.work = work

    def forget(self) -> None:
        """Leave the lineage: nothing held counts any more, and the pending input was made from what was held."""
        self.completed, self.digest, self.rejected, self.work, self.origin, self.told = 0, 0, "", 0, 0, 0
        self.electorates, self._begun = (), None
        self.running, self.recovering = False, 0
        self.owed_rejections.clear()
        self.take_back()

    def install(self, decision: Decision, *, newcomer: bool, member: bool, brought: bool = False) -> Verdict:
        """Move to where ``decision`` says the new epoch starts.

        ``newcomer``: this peer's first round is the next one.  ``member``: it was in an epoch of this lineage
        before, so that its pending input, if any, was meant for the round after its last decided one.  ``brought``: it
        was in another lineage, where others may hold a result that its pending input is in.
        """
        self.running, self.recovering = False, 0
        base, self.electorates = decision.base, decision.electorates
        # What was told since the promise is not in the decision yet, nor what others will see in the same result.
        if self._begun == (base, decision.work) and self.completed == base:
            self.work = self.told
        else:
            self.work, self.origin = max(decision.work, self.told), decision.origin
        if newcomer:
            obsolete = brought or self.digest != 0 or (self.rejected != "" and not decision.rejected)
            # Its input has been under way, and may be in a result that the others hold: it must not be in two.
            obsolete = obsolete or (self.attempts > 0 and base > self.completed)
            meant = member and self.completed == base - 1
            if decision.rejected and meant:
                return self._reject(base, decision.rejected)
            if obsolete:
                self.forget()
            self._begun = None
            self.completed, self.digest, self.rejected = base, 0, ""
            self.work, self.origin, self.electorates = decision.work, decision.origin, decision.electorates
            return Verdict(obsolete=obsolete)
        if self.completed == base:
            return Verdict()
        if decision.rejected:
            return self._reject(base, decision.rejected)
        self.recovering = base
        return Verdict()

    def _reject(self, base: int, reason: str) -> Verdict:
        self.completed, self.digest, self.rejected = base, 0, reason
        if self.schema is None:
            self.owed_rejections.append((base, reason))
            return Verdict()
        self.take_back()
        return Verdict(rejected=reason)

    def report(self, peer: PeerId, epoch: Epoch | None) -> Report:
        """This peer's frozen status, for a promise."""
        pending = self.next_round if self.schema is not None and epoch is not None else 0
        return Report(
            peer=peer,
            epoch=epoch,
            completed=self.completed if epoch is not None else 0,
            digest=self.digest if epoch is not None else 0,
            rejected=self.rejected if epoch is not None else "",
            work=self.work if epoch is not None else 0,
            origin=self.origin if epoch is not None else 0,
            pending=pending,
            schema=self.schema or 0,
            state=self.state,
            attempts=self.attempts,
            broken=self.broken,
            electorates=self.electorates if epoch is not None else (),
        )
