"""One gossiping peer's part in the exchange of weights: what it sends, takes, takes back, asks for and gives up.

Sans-IO: every method takes what happened, and returns what is to be done.  The values (a model's tensors, or the
simulator's numbers) are kept by the owner under the number of the transfer or hold that they belong to.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, replace

from lepton_p2p.gossip.push_sum import Hold, Ledger, Transfer
from lepton_p2p.identity import PeerId

OUTGOING = 2
"""Pushes on their way at a time; one more is left out, since the link is slower than the training."""
INCOMING = 4
"""Pushes that wait to be mixed in; more are refused, and their weight goes back to the sender."""
RETRY = 0.5
"""Seconds after an answer that did not come before the same is asked again."""
UNCLAIMED = 10.0
"""Seconds after which a share that has arrived and that its receiver does not ask for comes back."""
ASK_AGAIN = 0.5
"""Seconds without an answer after which a peer without weight asks the next one."""
EMPTY_ANSWERS = 3
"""How often in a row all living peers must say that they have no weight before the state counts as lost."""


@dataclass(frozen=True, slots=True)
class Share:
    """A value that waits to be mixed into the own one.  number: of the transfer that came back, or of the hold.

    own: it was this peer's before.  founding: of what it is a share.
    """

    number: int
    weight: float
    own: bool
    founding: int


class Account:
    """Of ``me``, who enters with ``weight``; ``first``: see ``Ledger``; ``founding``: names what a founder's weight is
    the whole of (64 bits, random).

    A peer without which the swarm has gone on (``dropped``) *yields*: it has no say, and asks for weight as a newcomer
    does.  If what it then gets is a share of the same whole as what it has, as after a split, it keeps that too; a
    training that began apart from the swarm's is given up.  But if nobody has any weight, its own is all that there
    is, and counts again.
    """

    def __init__(self, me: PeerId, weight: float, first: int = 0, founding: int = 0) -> None:
        self.ledger = Ledger(me, weight, first)
        self.founding = founding
        self.inbox: deque[Share] = deque()
        self.yielding = False
        self.closing = False
        self.lost = 0.0
        """Weight that may be lost: asked for at senders that died before their answer was heard."""
        self._arrived: dict[int, float] = {}
        self._asking: set[int] = set()
        self._again: dict[int, float] = {}
        self._owed: dict[PeerId, None] = {}
        self._answers: dict[PeerId, int] = {}
        self._turn = 0

    @property
    def weight(self) -> float:
        """What this peer's value counts; 0.0 while it has no say."""
        return 0.0 if self.yielding else self.ledger.weight

    @property
    def settled(self) -> bool:
        """Whether nothing is on its way to or from this peer."""
        return not self.ledger.in_flight and not self.ledger.holds

    # -- out ----------------------------------------------------------------------------------------------------

    def offer(self, partner: PeerId) -> Transfer | None:
        """Half of the weight for ``partner``, to be sent to it; None if there is none."""
        return self.ledger.offer(partner, self.founding) if self.weight else None

    def sent(self, now: float, number: int, *, taken: bool) -> None:
        """The message with a transfer has ended.  ``taken``: the partner said that it holds it."""
        if number not in self.ledger.in_flight:
            return
        if taken:
            self._arrived[number] = now
        else:
            self._take_back((number,))

    def asked_for(self, partner: PeerId, number: int, hold: int) -> bool:
        """``partner`` holds a transfer: is it its own from now on?"""
        given = self.ledger.give(partner, number, hold)
        if given:
            self._arrived.pop(number, None)
        return given

    def recall(self) -> None:
        """Whatever has not been asked for comes back."""
        self._take_back(tuple(self.ledger.in_flight))

    def _take_back(self, numbers: Iterable[int]) -> None:
        for number in numbers:
            self._arrived.pop(number, None)
            weight = self.ledger.take_back(number)
            if weight:
                self.inbox.append(Share(number, weight, True, self.founding))

    # -- in -----------------------------------------------------------------------------------------------------

    def arrived(self, transfer: Transfer) -> Hold | None:
        """A transfer is here: its value is to be kept under the hold's number; None: it is not taken."""
        return None if self.closing else self.ledger.hold(transfer)

    def due(self, now: float) -> list[Hold]:
        """The holds whose senders are to be asked now; what is overdue on the way out comes back."""
        self._take_back([number for number, when in self._arrived.items() if now - when > UNCLAIMED])
        due = []
        for number, hold in self.ledger.holds.items():
            if number not in self._asking and self._again.get(number, now) <= now:
                self.ledger.holds[number] = replace(hold, asked=True)
                due.append(hold)
        self._asking.update(hold.id for hold in due)
        return due

    def answered(self, now: float, number: int, answer: bool | None) -> bool:
        """The sender of a hold has said whether it is this peer's now (None: no answer).

        Whether the hold's value is needed no more: it is the sender's.
        """
        self._asking.discard(number)
        hold = self.ledger.holds.get(number)
        if hold is None:
            return False
        if answer is None:
            self._again[number] = now + RETRY
            return False
        self._again.pop(number, None)
        if answer:
            self.inbox.append(Share(number, self.ledger.given(number), False, hold.transfer.founding))
        else:
            del self.ledger.holds[number]
        return not answer

    def release(self, sender: PeerId | None = None) -> list[Hold]:
        """Holds of ``sender`` (None: of all) whose answer will not be heard any more; their values are not needed."""
        ended = [hold for hold in self.ledger.holds.values() if sender in (None, hold.transfer.sender)]
        for hold in ended:
            del self.ledger.holds[hold.id]
            self._again.pop(hold.id, None)
            self.lost += hold.transfer.weight if hold.asked else 0.0
        return ended

    def mix(self) -> tuple[Share, float] | None:
        """The next value to be mixed in, and its share of the mix: 1.0 if it takes the place of the own one."""
        if not self.inbox:
            return None
        share = self.inbox.popleft()
        if not share.own:
            if self.yielding and share.founding != self.founding:
                self.ledger.give_up()
                self.founding = share.founding
            # Two that both have a say become one, whoever founded them.
            self.yielding, self.founding = False, max(self.founding, share.founding)
        return share, self.ledger.mix(share.weight)

    # -- who has any ----------------------------------------------------------------------------------------------

    def wants(self, peer: PeerId) -> bool:
        """``peer`` asks for weight; whether there is any."""
        if self.weight and not self.closing:
            self._owed[peer] = None
        return self.weight > 0

    def next_partner(
        self, alive: Collection[PeerId], *, due: bool, choose: Callable[[Sequence[PeerId]], PeerId]
    ) -> PeerId | None:
        """Whom to push to now: who asked for weight and was not offered any since; or anybody, if it is ``due``."""
        for peer in list(self._owed):
            del self._owed[peer]
            if peer in alive:
                return peer
        return choose(sorted(alive)) if due and alive else None

    def next_donor(self, alive: Collection[PeerId]) -> PeerId | None:
        """Whom to ask for weight now: everybody in turn."""
        self._turn += 1
        return sorted(alive)[(self._turn - 1) % len(alive)] if alive else None

    def told(self, peer: PeerId, has: bool) -> None:
        """``peer`` was asked for weight, and said whether it has any."""
        self._answers[peer] = 0 if has else self._answers.get(peer, 0) + 1

    def nobody_has_any(self, alive: Iterable[PeerId], times: int) -> bool:
        """Whether every one of ``alive`` (at least one) has said, ``times`` times in a row, to have none.

        Who yields is not lost then, nor if it is alone: it has a say again.
        """
        answers = [self._answers.get(peer, 0) for peer in alive]
        if min(answers, default=times) < times:
            return False
        self._answers.clear()
        if self.yielding and self.ledger.weight:
            self.yielding = False
            return False
        return bool(answers)

    # -- the swarm ------------------------------------------------------------------------------------------------

    def gone(self, peer: PeerId) -> list[Hold]:
        """``peer`` is believed dead, or has left: what it does not hold for sure comes back, see ``release``."""
        self._take_back([n for n in self._arrived if self.ledger.in_flight[n][0] == peer])
        self._answers.pop(peer, None)
        self._owed.pop(peer, None)
        return self.release(peer)

    def dropped(self) -> None:
        """The swarm went on without this peer."""
        self.yielding = True
        for number, share in enumerate(self.inbox):
            self.inbox[number] = replace(share, own=True)

    def close(self) -> None:
        """Take nothing any more, and give to nobody."""
        self.closing = True
