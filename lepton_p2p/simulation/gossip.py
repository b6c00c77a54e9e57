"""The gossip of one virtual process: what ``training.post`` and its strategy are in a daemon's threads."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random
from typing import Protocol

from lepton_p2p.gossip.account import ASK_AGAIN, EMPTY_ANSWERS, INCOMING, OUTGOING, Account
from lepton_p2p.gossip.push_sum import Hold, Transfer
from lepton_p2p.gossip.wire import Counter, Header, Kind
from lepton_p2p.identity import PeerId, PeerInfo, short
from lepton_p2p.simulation.mass import Book, Mass, quanta
from lepton_p2p.simulation.oracle import Violation

LARGEST = 2**40
"""Marks that a founder's value has for each quantum, at most; and how much a step changes of all of them."""
BATCH = 8

Answer = Callable[[bool | None], None]


class Mail(Protocol):
    """What a gossiping process finds around it."""

    def others(self) -> Sequence[PeerInfo]:
        """Whom it believes to be alive, itself excluded; in an epoch, its members only."""

    def push(self, to: PeerId, header: Header, marks: int, answered: Answer) -> None:
        """Send; ``answered`` with what the partner's ``receive`` returned, or None if that is unknown."""

    def holds(self, who: PeerId, hold: int) -> bool:
        """Whether ``who`` lives, and holds that (only the book may know)."""

    def now(self) -> float: ...

    def later(self, seconds: float, call: Callable[[], None]) -> None: ...


class Gossiper:
    """Trains at its own pace and pushes half of what it has to anybody, for ever.

    weight: 1.0 of a founder, 0.0 of all others.  worked(samples): so many have been used in the swarm.  gave_up(why):
    the training is over here.
    """

    def __init__(
        self,
        me: PeerId,
        weight: float,
        mail: Mail,
        book: Book,
        rng: Random,
        *,
        pace: Callable[[], float],
        worked: Callable[[int], None],
        gave_up: Callable[[str], None],
    ) -> None:
        self.account = Account(me, weight, first=rng.getrandbits(64), founding=rng.getrandbits(64) if weight else 0)
        self.steps = 0
        self._me, self._mail, self._book, self._rng = me, mail, book, rng
        self._pace, self._worked, self._gave_up = pace, worked, gave_up
        self._counter = Counter(me)
        self._marks = rng.randrange(LARGEST) if weight else 0
        self._sent: dict[int, Mass] = {}
        self._sending: set[int] = set()
        self._held: dict[int, Mass] = {}
        self._stopped = False
        self._every = rng.randint(1, 3)
        book.entered(Mass(quanta(weight), self._marks))
        self._look()

    @property
    def value(self) -> float:
        """What it has come to."""
        return self._marks / max(1, quanta(self.account.ledger.weight))

    @property
    def kept(self) -> str:
        """What is left over when nothing happens any more, in words; "" if all is settled."""
        ledger = self.account.ledger
        kept = {
            "shares on their way": len(ledger.in_flight),
            "shares that it has not asked for": len(ledger.holds),
            "values to mix in": len(self.account.inbox) + len(self._sent) + len(self._held),
        }
        return ", ".join(f"{count} {what}" for what, count in kept.items() if count)

    def stop(self) -> None:
        """No more steps."""
        self._stopped = True

    def die(self) -> None:
        """With all that it has."""
        self._stopped = True
        self._book.death(self._me)

    # -- the strategy's thread -------------------------------------------------------------------------------

    def step(self) -> None:
        """Mix in what came; train and push, or ask for weight; and so on."""
        if self._stopped:
            return
        self.clear_up()
        self._collect()
        others = self._mail.others()
        if self.account.weight > 0:
            self._train()
            self._push(others)
            self._look()
            self._mail.later(self._pace(), self.step)
        elif self.account.nobody_has_any((peer.id for peer in others), EMPTY_ANSWERS):
            self._gave_up("no living peer has any of the swarm's weights")
        else:
            self._ask(others)
            self._mail.later(ASK_AGAIN, self.step)

    def _train(self) -> None:
        self.steps += 1
        change = self._rng.randrange(-LARGEST, LARGEST)
        self._marks += change
        self._book.entered(Mass(0, change))
        self._counter.add(BATCH)
        self._worked(self._counter.total)

    def _push(self, others: Sequence[PeerInfo]) -> None:
        alive = {peer.id for peer in others}
        due = self.steps % self._every == 0
        partner = self.account.next_partner(alive, due=due, choose=self._rng.choice)
        before = self.account.ledger.weight
        transfer = self.account.offer(partner) if partner is not None and len(self._sent) < OUTGOING else None
        if transfer is None or partner is None:
            return
        mass = Mass(0, self._marks).part(transfer.weight, before)
        self._marks -= mass.marks
        self._sent[transfer.id] = mass
        self._sending.add(transfer.id)
        counts = self._counter.snapshot()
        header = Header(Kind.TRANSFER, transfer.id, 0, transfer.weight, counts, transfer.founding)
        self._mail.push(partner, header, mass.marks, lambda answer: self._pushed(transfer.id, answer))

    def _pushed(self, number: int, answer: bool | None) -> None:
        self._sending.discard(number)
        self.account.sent(self._mail.now(), number, taken=answer is True)
        self._reuse()

    def _reuse(self) -> None:
        """Forget what neither is on its way nor has come back."""
        back = {share.number for share in self.account.inbox}
        for number in self._sent.keys() - back - self._sending - self.account.ledger.in_flight.keys():
            del self._sent[number]

    def _ask(self, others: Sequence[PeerInfo]) -> None:
        donor = self.account.next_donor({peer.id for peer in others})
        if donor is not None:
            self._mail.push(donor, Header(Kind.ASK), 0, lambda has: self._told(donor, has))

    def _told(self, donor: PeerId, has: bool | None) -> None:
        if has is not None:
            self.account.told(donor, has)

    def clear_up(self) -> None:
        """Ask the senders of what it holds, if it is time to."""
        for hold in self.account.due(self._mail.now()):
            self._claim(hold)
        self._reuse()

    def _claim(self, hold: Hold) -> None:
        header = Header(Kind.CLAIM, hold.transfer.id, hold.id)
        self._mail.push(hold.transfer.sender, header, 0, lambda answer: self._answered(hold.id, answer))

    def _answered(self, number: int, answer: bool | None) -> None:
        held = number in self.account.ledger.holds
        if self.account.answered(self._mail.now(), number, answer):
            self._book.refused(self._me, number)
            del self._held[number]
        elif held and answer:
            self._book.took(self._me, number, self._held[number])
        self._look()

    def _collect(self) -> None:
        while True:
            before, had = self.account.ledger.given_up, Mass(quanta(self.account.ledger.weight), self._marks)
            found = self.account.mix()
            if found is None:
                break
            share, _ = found
            if self.account.ledger.given_up > before:
                self._book.void(had)
                self._marks = 0
            back = self._sent.get(share.number)
            self._book.returned += back is not None
            self._marks += (back or self._held.pop(share.number)).marks
            if back is not None:
                del self._sent[share.number]
            self._look()

    # -- what others send ---------------------------------------------------------------------------------------

    def receive(self, sender: PeerId, header: Header, marks: int) -> bool:
        """A message; the answer."""
        self._counter.merge(header.counts, 2**40)
        match header.kind:
            case Kind.TRANSFER:
                room = len(self._held) < INCOMING
                transfer = Transfer(sender, header.id, header.weight, header.founding)
                hold = self.account.arrived(transfer) if room else None
                if hold is not None:
                    self._held[hold.id] = Mass(quanta(header.weight), marks)
                    self.clear_up()
                return hold is not None
            case Kind.CLAIM:
                return self._asked_for(sender, header)
            case Kind.ASK:
                return self.account.wants(sender)
            case Kind.COUNTS:
                return True

    def _asked_for(self, sender: PeerId, header: Header) -> bool:
        mine = self.account.ledger.in_flight.get(header.id)
        given = self.account.asked_for(sender, header.id, header.hold)
        if mine is not None and given:
            mass = Mass(quanta(mine[1]), self._sent[header.id].marks)
            self._book.gave(sender, header.hold, mass, heard=self._mail.holds(sender, header.hold))
        self._reuse()
        self._look()
        return given

    # -- the swarm ------------------------------------------------------------------------------------------------

    def gone(self, peer: PeerId) -> None:
        """``peer`` is believed dead, or has left."""
        self._release(self.account.gone(peer))

    def dropped(self) -> None:
        """The swarm went on without this peer."""
        self.account.dropped()

    def close(self) -> None:
        """Take nothing any more."""
        self._stopped = True
        self.account.close()

    def settle(self) -> None:
        """Wait for nobody any more."""
        self.account.recall()
        self._release(self.account.release())
        self._sending.clear()
        self._collect()
        self._reuse()

    def _release(self, holds: list[Hold]) -> None:
        told = sum(hold.transfer.weight for hold in holds if hold.asked)
        lost = self._book.released(self._me, [hold.id for hold in holds])
        for hold in holds:
            del self._held[hold.id]
        if lost > told:
            raise Violation("mass-conserved", f"{short(self._me)} loses {lost - told} of weight without a word")
        self._look()

    def _look(self) -> None:
        """What is its own: in its value, on its way, and waiting to be mixed in."""
        waiting = {share.number for share in self.account.inbox}
        sent = self._sent.keys() & (self.account.ledger.in_flight.keys() | waiting)
        marks = self._marks + sum(self._sent[number].marks for number in sent)
        marks += sum(self._held[number].marks for number in self._held.keys() & waiting)
        self._book.look(self._me, self.account.ledger, marks)
