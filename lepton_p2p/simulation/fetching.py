"""A newcomer's way to the state: what ``runtime.state_fetch`` is over gRPC and links."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from functools import partial
from typing import Protocol

from lepton_p2p.identity import PeerId, PeerInfo
from lepton_p2p.replication.donors import all_have_passed, donors
from lepton_p2p.rounds.epoch import Epoch
from lepton_p2p.simulation.replica import State

AGAIN = 0.1
"""Seconds before members are asked again."""
CHUNKS = 3
"""A snapshot travels in so many pieces, each from any member that has it."""


class Refusal(Enum):
    """What a member says that keeps no snapshot."""

    NOT_KEPT = "not kept here"


NOT_KEPT = Refusal.NOT_KEPT
Answer = State | Refusal | None
"""A snapshot, a refusal, or nothing at all."""


@dataclass(frozen=True, slots=True)
class Piece:
    """One chunk of a snapshot; ``damaged`` on the way or by who sent it."""

    index: int
    damaged: bool = False


class Sources(Protocol):
    """Who can be asked, and how."""

    def epoch(self) -> Epoch | None: ...

    def later(self, seconds: float, call: Callable[[], None]) -> None: ...

    def choose(self, peers: list[PeerInfo]) -> PeerInfo: ...

    def now(self) -> float:
        """The world's time."""

    def completed(self) -> int:
        """The last decided round."""

    def describe(self, donor: PeerInfo, round: int, got: Callable[[Answer], None]) -> None:
        """Ask for what ``donor`` keeps of ``round``."""

    def pull(self, donor: PeerInfo, round: int, index: int, got: Callable[[Piece | None], None]) -> None:
        """Fetch one chunk of it."""


class StateFetch:
    """Fetches the state after ``round``; ``done`` and ``state`` (None: it cannot be had) tell the end of it."""

    def __init__(self, sources: Sources, me: PeerId, round: int) -> None:
        self.done = False
        self.state: State | None = None
        self._sources, self._me, self._round = sources, me, round
        self._distrusted: set[PeerId] = set()
        self._missing = set(range(CHUNKS))
        self._digest = 0
        self._cancelled = False
        self._ask()

    def cancel(self) -> None:
        """Nobody wants it any more."""
        self._cancelled = True

    def _end(self, state: State | None) -> None:
        self.done, self.state = True, state

    def _ask(self) -> None:
        if self._cancelled:
            return
        asked = donors(self._sources.epoch(), self._round, exclude={self._me, *self._distrusted})
        if not asked:
            self._end(None)
            return
        late = all_have_passed(self._round, self._sources.completed())
        answers: list[tuple[PeerInfo, Answer]] = []
        for donor in asked:
            self._sources.describe(donor, self._round, partial(self._answered, answers, len(asked), late, donor))

    def _answered(
        self, answers: list[tuple[PeerInfo, Answer]], asked: int, late: bool, donor: PeerInfo, answer: Answer
    ) -> None:
        answers.append((donor, answer))
        if len(answers) < asked or self._cancelled:
            return
        described = [(peer, state) for peer, state in answers if isinstance(state, State)]
        if not described:
            if late and all(answer is NOT_KEPT for _, answer in answers):
                self._end(None)
            else:
                self._sources.later(AGAIN, self._ask)
            return
        votes = Counter(state.digest for _, state in described)
        digest, count = votes.most_common(1)[0]
        if 2 * count <= len(described) and len(votes) > 1:
            self._end(None)  # the members do not agree on the state
            return
        if digest != self._digest:
            self._digest, self._missing = digest, set(range(CHUNKS))
        sources = [peer for peer, state in described if state.digest == digest]
        agreed = next(state for _, state in described if state.digest == digest)
        self._pull(sources, agreed)

    def _pull(self, sources: list[PeerInfo], agreed: State) -> None:
        if self._cancelled:
            return
        if not self._missing:
            self._end(agreed)
            return
        if not sources:
            self._sources.later(AGAIN, self._ask)
            return
        source, index = self._sources.choose(sources), min(self._missing)

        def got(piece: Piece | None) -> None:
            left = sources
            if piece is None or piece.damaged:
                left = [peer for peer in sources if peer != source]
                if piece is not None:
                    self._distrusted.add(source.id)
            else:
                self._missing.discard(index)
            self._pull(left, agreed)

        self._sources.pull(source, self._round, index, got)
