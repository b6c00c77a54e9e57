"""A gossiping peer's post office: what goes out, what comes in, and whose weight it is; never makes anybody wait.

The training thread pushes and collects; the exchange's threads deliver.  One lock guards the account; tensors are
copied outside of it.
"""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from concurrent.futures import Future
from functools import partial

import structlog
from torch import nn

from lepton_p2p.gossip.account import INCOMING, OUTGOING, Account
from lepton_p2p.gossip.push_sum import Hold, Transfer
from lepton_p2p.gossip.wire import Counter, Header, Kind
from lepton_p2p.identity import PeerId, short
from lepton_p2p.training.collective import PairExchange
from lepton_p2p.training.mailbox import Image, Images

log = structlog.get_logger()


class Post:
    """The account of ``me`` and its mail.  ``target``: samples after which the swarm's training ends."""

    def __init__(
        self,
        me: PeerId,
        exchange: PairExchange,
        model: nn.Module,
        *,
        weight: float,
        target: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.counter = Counter(me)
        self.changed = threading.Condition()
        self._me = me
        self._exchange = exchange
        self._target = target
        self._clock = clock
        founding = secrets.randbits(64) if weight else 0
        self._account = Account(me, weight, first=secrets.randbits(64), founding=founding)
        self._outgoing = Images(model, OUTGOING)
        self._incoming = Images(model, INCOMING)
        self._sending: set[int] = set()
        self._sent: dict[int, Image] = {}
        self._held: dict[int, Image] = {}
        self.disagreement: float | None = None
        """How far the partner of the last exchange was from the own model, relative to it; None before the first."""
        exchange.on_push(self._receive)
        exchange.on_gone(self._gone)
        exchange.on_dropped(self.dropped)

    @property
    def weight(self) -> float:
        """What this peer's model counts; 0.0 while it has no say."""
        with self.changed:
            return self._account.weight

    @property
    def total(self) -> int:
        """Samples that the swarm has used, as far as this peer knows."""
        with self.changed:
            return self.counter.total

    def count(self, samples: int) -> None:
        """This peer has used so many more."""
        with self.changed:
            self.counter.add(samples)

    @property
    def counts(self) -> dict[PeerId, int]:
        """The samples behind ``total``, by peer."""
        with self.changed:
            return self.counter.snapshot()

    def merge(self, counts: Mapping[PeerId, int]) -> None:
        """Samples that peers are known to have used, from a checkpoint."""
        with self.changed:
            self.counter.merge(counts, self._target)

    # -- out ----------------------------------------------------------------------------------------------------

    def next_partner(
        self, alive: Collection[PeerId], *, due: bool, choose: Callable[[Sequence[PeerId]], PeerId]
    ) -> PeerId | None:
        """See ``Account``."""
        with self.changed:
            return self._account.next_partner(alive, due=due, choose=choose)

    def push_half(self, partner: PeerId) -> bool:
        """Send half of the weight, with the model as it is now, to ``partner``; False if nothing could be sent."""
        with self.changed:
            image = self._outgoing.take()
            if image is None:
                return False
            transfer = self._account.offer(partner)
            if transfer is None:
                self._outgoing.give_back(image)
                return False
            self._sending.add(transfer.id)
            self._sent[transfer.id] = image
            counts = self.counter.snapshot()
            header = Header(Kind.TRANSFER, transfer.id, 0, transfer.weight, counts, transfer.founding).encode()
        self._outgoing.copy_model(image)
        future = self._exchange.push(partner, header, image.memory)
        future.add_done_callback(partial(self._pushed, transfer.id))
        return True

    def _pushed(self, number: int, future: Future[bool]) -> None:
        with self.changed:
            self._sending.discard(number)
            self._account.sent(self._clock(), number, taken=_answer(future) is True)
            self._reuse()

    def _reuse(self) -> None:
        """Memory of what neither can come back, nor has, nor is read by a link."""
        needed = self._sending | set(self._account.ledger.in_flight) | {share.number for share in self._account.inbox}
        for number in self._sent.keys() - needed:
            self._outgoing.give_back(self._sent.pop(number))
        self.changed.notify_all()

    def clear_up(self) -> None:
        """Ask the senders of what is held, if it is time to."""
        with self.changed:
            due = self._account.due(self._clock())
            self._reuse()
        for hold in due:
            header = Header(Kind.CLAIM, hold.transfer.id, hold.id).encode()
            future = self._exchange.push(hold.transfer.sender, header, memoryview(b""))
            future.add_done_callback(partial(self._answered, hold.id))

    def _answered(self, number: int, future: Future[bool]) -> None:
        with self.changed:
            if self._account.answered(self._clock(), number, _answer(future)):
                self._incoming.give_back(self._held.pop(number))
            self.changed.notify_all()

    def ask(self, alive: Collection[PeerId]) -> None:
        """Tell one of ``alive`` that this peer has no weight; see ``nobody_has_any``."""
        with self.changed:
            partner = self._account.next_donor(alive)
        if partner is None:
            return
        future = self._exchange.push(partner, Header(Kind.ASK).encode(), memoryview(b""))
        future.add_done_callback(partial(self._told, partner))

    def _told(self, partner: PeerId, future: Future[bool]) -> None:
        with self.changed:
            has = _answer(future)
            if has is not None:
                self._account.told(partner, has)
            self.changed.notify_all()

    def nobody_has_any(self, alive: Iterable[PeerId], times: int) -> bool:
        """See ``Account``."""
        with self.changed:
            return self._account.nobody_has_any(alive, times)

    def tell_counts(self, peers: Iterable[PeerId]) -> list[Future[bool]]:
        """Send the counter alone."""
        with self.changed:
            header = Header(Kind.COUNTS, counts=self.counter.snapshot()).encode()
        return [self._exchange.push(peer, header, memoryview(b"")) for peer in peers]

    # -- in -----------------------------------------------------------------------------------------------------

    def collect(self) -> int:
        """Mix what has come in, or back, into the model; how many values that were."""
        mixed = 0
        while True:
            with self.changed:
                before = self._account.ledger.given_up
                found = self._account.mix()
                given_up = self._account.ledger.given_up - before
                if found is None:
                    return mixed
                share, part = found
                came_back = share.number in self._sent
                images, image = (
                    (self._outgoing, self._sent[share.number])
                    if came_back
                    else (self._incoming, self._held.pop(share.number))
                )
            if given_up:
                log.warning("gave up what was trained apart from the swarm, for what the swarm has", weight=given_up)
            if part < 1.0 and not came_back:  # a newcomer's own values are nobody's opinion
                self.disagreement = images.distance(image)
            images.mix_into_model(image, part)
            with self.changed:
                if not came_back:
                    images.give_back(image)
                self._reuse()
            mixed += 1

    def wait(self, seconds: float) -> None:
        """Until something came in, or ``seconds`` have passed."""
        with self.changed:
            if not self._account.inbox:
                self.changed.wait(seconds)

    def close(self) -> None:
        """Take nothing any more: senders keep what they offer."""
        with self.changed:
            self._account.close()

    @property
    def settled(self) -> bool:
        """Whether nothing is on its way to or from this peer."""
        with self.changed:
            return self._account.settled

    def settle(self) -> None:
        """Wait for nobody any more: what others have not asked for comes back, what they do not answer for is lost."""
        with self.changed:
            self._account.recall()
            self._release(self._account.release())
        self.collect()

    def _receive(self, sender: PeerId, data: bytes, payload: memoryview) -> bool:
        try:
            header = Header.decode(data)
        except ValueError as error:
            log.warning("refused a gossip message", sender=short(sender), reason=str(error))
            return False
        with self.changed:
            self.counter.merge(header.counts, self._target)
            closing = self._account.closing
        match header.kind:
            case Kind.TRANSFER:
                return self._take(Transfer(sender, header.id, header.weight, header.founding), payload)
            case Kind.CLAIM:
                with self.changed:
                    given = self._account.asked_for(sender, header.id, header.hold)
                    self._reuse()
                return given
            case Kind.ASK:
                if closing:
                    # Too late for a push: the asker learns that the training is over and takes part in the last round.
                    self.tell_counts([sender])
                with self.changed:
                    return self._account.wants(sender)
            case Kind.COUNTS:
                return True

    def _take(self, transfer: Transfer, payload: memoryview) -> bool:
        with self.changed:
            image = None if self._account.closing else self._incoming.take()
        good = image is not None and self._fill(image, transfer.sender, payload)
        with self.changed:
            hold = self._account.arrived(transfer) if good else None
            if image is not None and hold is not None:
                self._held[hold.id] = image
            elif image is not None:
                self._incoming.give_back(image)
        if hold is not None:
            self.clear_up()
        return hold is not None

    def _fill(self, image: Image, sender: PeerId, payload: memoryview) -> bool:
        if payload.nbytes != len(image.data):
            log.warning(
                "refused a push of another size; use the same job everywhere",
                sender=short(sender),
                bytes=payload.nbytes,
                expected=len(image.data),
            )
            return False
        if payload.nbytes:
            image.memory[:] = payload.cast("B")
        if not image.finite():
            log.warning("refused a push with NaN or Inf", sender=short(sender))
            return False
        return True

    def _gone(self, peer: PeerId) -> None:
        with self.changed:
            self._release(self._account.gone(peer))
            self._reuse()

    def _release(self, holds: list[Hold]) -> None:
        for hold in holds:
            self._incoming.give_back(self._held.pop(hold.id))
            if hold.asked:
                weight, sender = hold.transfer.weight, short(hold.transfer.sender)
                log.warning("a share is lost, unless its sender has it still", sender=sender, weight=weight)

    def dropped(self) -> None:
        """The swarm went on without this peer: it has no say before it has got something from the others."""
        with self.changed:
            if self._account.weight:
                log.warning("the others went on without this peer: it asks them for weight")
            self._account.dropped()
            self.changed.notify_all()


def _answer(future: Future[bool]) -> bool | None:
    """What the partner's handler returned; None if that is unknown."""
    return None if future.cancelled() or future.exception() is not None else future.result()
